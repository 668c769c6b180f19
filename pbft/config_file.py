"""Reads and writes `cluster.toml`. Refusals are one sentence that names file, key and remedy (DESIGN 3).

The file is for people: every tunable stands in it with its default, unit and meaning. Private keys and start tokens are
separate files beside it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from pbft.config import ConfigError, Group, Quorums, Tunables
from pbft.crypto import CryptoError, PrivateKey, PublicKey, client_id, write_private_key
from pbft.storage.data_directory import write_start_token


@dataclass(frozen=True, slots=True)
class Address:
    """Host name or numeric address, and port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`host:port`, or `[v6]:port`. Raises ValueError with a sentence."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r} needs brackets around the IPv6 address, as in [::1]:7000")
        if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not host:port with a port between 1 and 65535")
        if not host.isprintable() or any(c in host for c in " \"'\\"):
            raise ValueError(f"{text!r} does not begin with a host name or a numeric address")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ReplicaEntry:
    """One `[[replica]]`."""

    id: int
    address: Address
    admin: Address
    key: PublicKey


@dataclass(frozen=True, slots=True)
class ClientEntry:
    """One `[[client]]`; `principal` is its id in the protocol."""

    name: str
    key: PublicKey
    principal: int


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A cluster as its file says."""

    path: Path
    name: str
    group: Group
    replicas: tuple[ReplicaEntry, ...]
    clients: tuple[ClientEntry, ...]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClusterConfig:
        """Read and check a file. Raises ConfigError."""
        reader = _Reader(Path(path))
        return reader.config(reader.read())

    @property
    def keys(self) -> Path:
        """Where private keys and start tokens lie."""
        return self.path.parent / "keys"

    def replica_key_path(self, replica: int) -> Path:
        """Private key file of a replica."""
        return self.keys / f"replica-{replica}.key"

    def token_path(self, replica: int) -> Path:
        """One-time start token of a replica (rule 1.7 c)."""
        return self.keys / f"replica-{replica}.token"

    def client_key_path(self, name: str) -> Path:
        """Private key file of a client."""
        return self.keys / f"client-{name}.key"

    @property
    def genesis_path(self) -> Path:
        """The backup that the cluster was made from, if `[cluster] genesis` names one."""
        return self.path.parent / GENESIS

    def data_directory(self, replica: int) -> Path:
        """Where a replica keeps its log and checkpoints unless told otherwise."""
        return self.path.parent / "data" / f"replica-{replica}"

    def client(self, name: str) -> ClientEntry:
        """The client of that name. Raises ConfigError that lists the known ones."""
        for entry in self.clients:
            if entry.name == name:
                return entry
        known = ", ".join(c.name for c in self.clients) or "none"
        raise ConfigError(f"{self.path}: there is no client {name!r}; the file lists: {known}")


GENESIS = "genesis.backup"

_CLUSTER_KEYS = ("name", "id", "app", "genesis")
_REPLICA_KEYS = ("id", "address", "admin", "key")
_CLIENT_KEYS = ("name", "key")
_SECTIONS = ("cluster", "protocol", "replica", "client")


class _Reader:
    """One pass over a file; every refusal goes through `fail`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ConfigError(f"{self._path}: {key} {problem}" if key else f"{self._path} {problem}")

    def config(self, text: str) -> ClusterConfig:
        """What the text of a file says."""
        table = self._table(text)
        self._known(table, "", _SECTIONS)
        cluster = self._section(table, "cluster")
        self._known(cluster, "cluster.", _CLUSTER_KEYS)
        name, app = self._text(cluster, "cluster.", "name"), self._text(cluster, "cluster.", "app")
        cluster_id = self._hex(self._text(cluster, "cluster.", "id"), "cluster.id")
        genesis = (
            self._hex(self._text(cluster, "cluster.", "genesis"), "cluster.genesis") if "genesis" in cluster else b""
        )
        tunables = self._tunables(table)
        replicas = self._replicas(table)
        clients = self._clients(table)
        keys = [(f"replica[{r.id}].key", r.key) for r in replicas]
        keys += [(f"client[{i}].key", c.key) for i, c in enumerate(clients)]
        places: dict[PublicKey, str] = {}
        for place, key in keys:
            if (first := places.setdefault(key, place)) != place:
                self.fail(place, f"is the same as {first}; every replica and client needs a key of its own")
        group = Group(
            cluster=cluster_id,
            app=app,
            replicas=tuple(r.key.raw for r in replicas),
            clients={c.principal: c.key.raw for c in clients},
            tunables=tunables,
            genesis=genesis,
        )
        return ClusterConfig(self._path.absolute(), name, group, replicas, clients)

    def read(self) -> str:
        """The text of the file."""
        try:
            return self._path.read_text("utf-8")
        except FileNotFoundError:
            self.fail("", "does not exist; `pbft init DIR` writes one")
        except IsADirectoryError:
            inside = self._path / "cluster.toml"
            self.fail("", f"is a folder; did you mean {inside}?" if inside.exists() else "is a folder and not a file")
        except OSError as error:
            self.fail("", f"cannot be read ({error.strerror})")
        except UnicodeDecodeError as error:
            self.fail("", f"is not valid TOML: {error}")

    def _table(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # not TOML, a number of thousands of digits, or too deep
            self.fail("", f"is not valid TOML: {error}")

    def _known(self, table: Mapping[str, Any], prefix: str, known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {prefix}{near[0]}?" if near else f"known are: {', '.join(known)}"
                self.fail(prefix + key, f"is not a known key; {hint}")

    def _section(self, table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        section = table.get(name)
        if not isinstance(section, dict):
            self.fail(f"[{name}]", "is missing; `pbft init` shows what it holds")
        return section

    def _list(self, table: Mapping[str, Any], name: str) -> list[Any]:
        entries = table.get(name, [])
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            self.fail(name, f"must be a list of [[{name}]] tables")
        return entries

    def _text(self, table: Mapping[str, Any], prefix: str, key: str) -> str:
        if key not in table:
            self.fail(prefix + key, "is missing")
        value = table[key]
        if not isinstance(value, str) or not value or not value.isprintable():
            self.fail(prefix + key, "must be a text that is not empty")
        return value

    def _hex(self, text: str, key: str) -> bytes:
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != 32:
            self.fail(key, "must be 64 hexadecimal digits, as `pbft init` writes them")
        return value

    def _tunables(self, table: Mapping[str, Any]) -> Tunables:
        section = table.get("protocol", {})
        if not isinstance(section, dict):
            self.fail("[protocol]", "must be a table")
        self._known(section, "protocol.", tuple(spec.name for spec in fields(Tunables)))
        try:
            return Tunables(**section)
        except ValueError as error:  # ConfigError, or a number of thousands of digits
            raise ConfigError(f"{self._path}: {error}") from None

    def _key(self, table: Mapping[str, Any], prefix: str) -> PublicKey:
        text = self._text(table, prefix, "key")
        try:
            return PublicKey.parse(text)
        except (CryptoError, ValueError) as error:
            self.fail(prefix + "key", f"is not a public key: {error}")

    def _address(self, table: Mapping[str, Any], prefix: str, key: str) -> Address:
        text = self._text(table, prefix, key)
        try:
            return Address.parse(text)
        except ValueError as error:
            self.fail(prefix + key, str(error))

    def _replicas(self, table: Mapping[str, Any]) -> tuple[ReplicaEntry, ...]:
        found: list[ReplicaEntry] = []
        used: dict[Address, str] = {}
        for index, entry in enumerate(self._list(table, "replica")):
            prefix = f"replica[{index}]."
            self._known(entry, prefix, _REPLICA_KEYS)
            if type(entry.get("id")) is not int or entry["id"] != index:
                self.fail(prefix + "id", f"must be {index}: replicas are numbered 0, 1, 2, ... in their order")
            addresses = {key: self._address(entry, prefix, key) for key in ("address", "admin")}
            for key, address in addresses.items():
                if address in used:
                    self.fail(
                        prefix + key, f"{address} is the same as {used[address]}; every address needs its own port"
                    )
                used[address] = prefix + key
            found.append(ReplicaEntry(index, addresses["address"], addresses["admin"], self._key(entry, prefix)))
        if len(found) < 4:
            self.fail("replica", f"lists {len(found)} replicas; at least 4 are needed to tolerate one fault")
        return tuple(found)

    def _clients(self, table: Mapping[str, Any]) -> tuple[ClientEntry, ...]:
        found: list[ClientEntry] = []
        for index, entry in enumerate(self._list(table, "client")):
            prefix = f"client[{index}]."
            self._known(entry, prefix, _CLIENT_KEYS)
            name = self._text(entry, prefix, "name")
            if not is_client_name(name):
                self.fail(prefix + "name", f"{name!r} may hold letters, digits, '.', '_' and '-' only")
            if name in [c.name for c in found]:
                self.fail(prefix + "name", f"{name!r} is used twice")
            key = self._key(entry, prefix)
            found.append(ClientEntry(name, key, client_id(key)))
        return tuple(found)


def is_client_name(name: str) -> bool:
    """Whether a client may be called so; the name is part of a file name."""
    return 0 < len(name) <= 64 and name[0] != "." and all(c.isascii() and (c.isalnum() or c in "._-") for c in name)


# ---- writing


def write_cluster(
    directory: Path,
    *,
    replicas: int = 4,
    app: str = "pbft.apps.kv:KeyValue",
    host: str = "127.0.0.1",
    base_port: int = 7000,
    clients: tuple[str, ...] = (),
    tunables: Mapping[str, int] | None = None,
    genesis: bytes = b"",
) -> ClusterConfig:
    """Write DIR/cluster.toml, DIR/keys/ with private keys (mode 0600) and one-time start tokens. Never overwrites.
    `genesis`: digest of the state that it begins with, which lies in DIR.

    Replica i listens on base_port + 2i, its admin address is one above. Raises ConfigError, KeyFileError, OSError.
    """
    path = directory / "cluster.toml"
    if path.exists() or (directory / "keys").exists() or (directory / "data").exists():
        raise ConfigError(f"{directory} holds a cluster already; choose another directory, or remove that one yourself")
    if replicas < 4:
        raise ConfigError(f"{replicas} replicas tolerate no fault; ask for at least 4")
    Quorums(replicas)
    if not 0 < base_port <= 65535 - 2 * replicas:
        raise ConfigError(f"base port {base_port} leaves no room for {2 * replicas} ports; choose a lower one")
    for name in clients:
        if not is_client_name(name) or clients.count(name) > 1:
            raise ConfigError(f"client name {name!r} is used twice, or holds other than letters, digits, '.', '_', '-'")
    Tunables(**(tunables or {}))
    cluster = os.urandom(32)
    replica_keys = [PrivateKey.generate() for _ in range(replicas)]
    client_keys = {name: PrivateKey.generate() for name in clients}
    lines = _header(directory.absolute().name, cluster, app, genesis) + _protocol(tunables or {})
    for number, key in enumerate(replica_keys):
        address, admin = Address(host, base_port + 2 * number), Address(host, base_port + 2 * number + 1)
        lines += ["[[replica]]", f"id = {number}", f"address = {_quoted(str(address))}"]
        lines += [f"admin = {_quoted(str(admin))}", f'key = "{key.public.text()}"', ""]
    for name, key in client_keys.items():
        lines += ["[[client]]", f'name = "{name}"', f'key = "{key.public.text()}"', ""]
    text = "\n".join(lines)
    config = _Reader(path).config(text)  # what would be refused later is refused now, before there is any file
    config.keys.mkdir(parents=True, mode=0o700)
    for number, key in enumerate(replica_keys):
        write_private_key(config.replica_key_path(number), key)
        write_start_token(config.token_path(number), cluster, number)
    for name, key in client_keys.items():
        write_private_key(config.client_key_path(name), key)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return config


def _header(name: str, cluster: bytes, app: str, genesis: bytes) -> list[str]:
    begins = [
        f"# The state that it begins with is in {GENESIS}, beside this file, on all replicas.",
        f'genesis = "{genesis.hex()}"',
    ]
    return [
        "# A cluster of replicas. All of them, and all clients, need this file; it holds no secret.",
        "# Private keys are in keys/: copy to each machine only its own.",
        "",
        "[cluster]",
        f"name = {_quoted(name)}",
        f'id = "{cluster.hex()}"',
        "# MODULE:CLASS, or FILE.py:CLASS; a relative FILE.py is looked for beside this file. Equal on all replicas.",
        f"app = {_quoted(app)}",
        *(begins if genesis else ()),
        "",
    ]


def _protocol(values: Mapping[str, int]) -> list[str]:
    lines = ["[protocol]", "# Equal on all replicas unless marked (own): then each replica may choose."]
    for name, default, spec in Tunables.describe():
        own = "" if spec["shared"] else " (own)"
        lines.append(f"{name} = {values.get(name, default)}  # {spec['unit']}{own}: {spec['meaning']}")
    return [*lines, ""]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
