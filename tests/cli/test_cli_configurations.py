"""A table of configuration files that cannot be used, each refused with the key and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pbft.config import ConfigError
from pbft.config_file import ClusterConfig, write_cluster

Edit = Callable[[str], str]


def put(key: str, value: str, entry: int = 0) -> Edit:
    """The line of a key (the one in the given replica or client, where there are several) gets another value."""

    def edit(text: str) -> str:
        found = list(re.finditer(rf"^{key} = .*$", text, re.MULTILINE))[entry]
        return text[: found.start()] + f"{key} = {value}" + text[found.end() :]

    return edit


def drop(key: str, entry: int = 0) -> Edit:
    """The line of a key is not there."""
    return lambda text: put(key, "", entry)(text).replace(f"{key} = \n", "", 1)


def under(section: str, line: str) -> Edit:
    """One more line at the head of a section."""
    return lambda text: text.replace(f"{section}\n", f"{section}\n{line}\n", 1)


def without(section: str, count: int) -> Edit:
    """Only the first `count` of the [[section]]s; those of another name stay."""

    def edit(text: str) -> str:
        blocks = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
        mine = [b for b in blocks if b.startswith(f"[[{section}]]")]
        return "".join(b for b in blocks if b not in mine[count:])

    return edit


def copied(key: str, source: int, target: int) -> Edit:
    """The value of a key in one replica or client stands in another one, too."""

    def edit(text: str) -> str:
        value = re.findall(rf"^{key} = (.*)$", text, re.MULTILINE)[source]
        return put(key, value, target)(text)

    return edit


# Keys are counted through the file: replicas 0 to 3, then alice, who is 4, and bob; names: the cluster's, then theirs.
CONFIGURATIONS: dict[str, tuple[Edit, str]] = {
    # the file as a whole
    "empty": (lambda text: "", ": [cluster] is missing; `pbft init` shows what it holds"),
    "no TOML": (lambda text: text + "[", " is not valid TOML: "),
    "a key twice": (under("[cluster]", 'app = "kv"'), " is not valid TOML: Cannot overwrite a value"),
    "no UTF-8": (lambda text: text + "# \udcff", " is not valid TOML: 'utf-8' codec can't decode byte 0xff"),
    "nested 10,000 deep": (lambda text: "x = " + "[" * 10_000, " is not valid TOML: "),
    "a number of 5,000 digits": (put("view_timeout", "9" * 5000), " is not valid TOML: Exceeds the limit"),
    "5,000 digits in hexadecimal": (put("view_timeout", "0x" + "9" * 5000), ": Exceeds the limit"),
    # keys that nobody knows
    "unknown section": (lambda text: text + "[protocl]\n", ": protocl is not a known key; did you mean protocol?"),
    "unknown key of the cluster": (
        under("[cluster]", "f = 1"),
        ": cluster.f is not a known key; known are: name, id, app",
    ),
    "misspelt tunable": (
        under("[protocol]", "view_timout = 100"),
        ": protocol.view_timout is not a known key; did you mean protocol.view_timeout?",
    ),
    "unknown key of a replica": (under("[[replica]]", "port = 1"), ": replica[0].port is not a known key; known are:"),
    "unknown key of a client": (under("[[client]]", "keys = 1"), ": client[0].keys is not a known key; did you mean"),
    # [cluster]
    "cluster is a text": (lambda text: 'cluster = "c"', ": [cluster] is missing"),
    "no name": (drop("name"), ": cluster.name is missing"),
    "empty name": (put("name", '""'), ": cluster.name must be a text that is not empty"),
    "name is a number": (put("name", "7"), ": cluster.name must be a text that is not empty"),
    "name with a line end": (put("name", r'"a\nb"'), ": cluster.name must be a text that is not empty"),
    "no application": (drop("app"), ": cluster.app is missing"),
    "no cluster id": (put("id", '""'), ": cluster.id must be a text that is not empty"),
    "short cluster id": (put("id", '"c0ffee"'), ": cluster.id must be 64 hexadecimal digits"),
    "cluster id without digits": (put("id", f'"{"xy" * 32}"'), ": cluster.id must be 64 hexadecimal digits"),
    # [protocol]
    "protocol is a list": (lambda text: text.replace("[protocol]", "[[protocol]]"), ": [protocol] must be a table"),
    "negative view timeout": (
        put("view_timeout", "-1"),
        ": protocol.view_timeout = -1 must lie between 50 and 600000 milliseconds",
    ),
    "negative heartbeat": (
        put("heartbeat_interval", "-500"),
        ": protocol.heartbeat_interval = -500 must lie between 20 and 60000 milliseconds",
    ),
    "no pause between STATUS": (put("status_interval", "0"), ": protocol.status_interval = 0 must lie between 20 and"),
    "negative clock skew": (put("clock_skew_max", "-1"), ": protocol.clock_skew_max = -1 must lie between 1 and"),
    "durable checkpoint never": (put("durable_checkpoint_interval", "0"), ": protocol.durable_checkpoint_interval = 0"),
    "timeout is a text": (
        put("view_timeout", '"2s"'),
        ": protocol.view_timeout must be a whole number of milliseconds",
    ),
    "timeout is a fraction": (put("view_timeout", "0.5"), ": protocol.view_timeout must be a whole number of"),
    "timeout is true": (put("view_timeout", "true"), ": protocol.view_timeout must be a whole number of"),
    "timeout is not a number": (put("view_timeout", "nan"), ": protocol.view_timeout must be a whole number of"),
    "window below 2K": (
        put("log_window", "255"),
        ": protocol.log_window = 255 must be at least twice protocol.checkpoint_interval = 128",
    ),
    "operations larger than batches": (
        put("operation_max_bytes", "1000000"),
        ": protocol.operation_max_bytes must be at most half of protocol.batch_max_bytes",
    ),
    # [[replica]]
    "no replicas": (without("replica", 0), ": replica lists 0 replicas; at least 4 are needed to tolerate one fault"),
    "three replicas": (without("replica", 3), ": replica lists 3 replicas; at least 4 are needed"),
    "replica is a table": (
        lambda text: without("replica", 0)(text) + "[replica]\nid = 0\n",
        ": replica must be a list of [[replica]] tables",
    ),
    "an id twice": (put("id", "1", 3), ": replica[2].id must be 2: replicas are numbered 0, 1, 2, ... in their order"),
    "an id left out": (put("id", "4", 4), ": replica[3].id must be 3"),
    "no id": (drop("id", 2), ": replica[1].id must be 1"),
    "id is a text": (put("id", '"0"', 1), ": replica[0].id must be 0"),
    "id is true": (put("id", "true", 2), ": replica[1].id must be 1"),
    "no address": (drop("address", 1), ": replica[1].address is missing"),
    "no admin address": (drop("admin", 1), ": replica[1].admin is missing"),
    "address without a port": (
        put("address", '"10.0.0.1"'),
        ": replica[0].address '10.0.0.1' is not host:port with a port between 1 and 65535",
    ),
    "port 0": (put("address", '"h:0"'), ": replica[0].address 'h:0' is not host:port with a port between 1 and"),
    "port 65536": (put("admin", '"h:65536"', 3), ": replica[3].admin 'h:65536' is not host:port"),
    "port of 5,000 digits": (put("address", f'"h:{"1" * 5000}"'), ": replica[0].address Exceeds the limit"),
    "port in other digits": (put("address", '"h:\u0667"'), ": replica[0].address 'h:\u0667' is not host:port"),
    "negative port": (put("address", '"h:-1"'), ": replica[0].address 'h:-1' is not host:port"),
    "no host": (put("address", '":7000"'), ": replica[0].address ':7000' is not host:port"),
    "host with a space": (
        put("address", '"a b:7000"'),
        ": replica[0].address 'a b:7000' does not begin with a host name or a numeric address",
    ),
    "IPv6 without brackets": (
        put("address", '"::1:7000"'),
        ": replica[0].address '::1:7000' needs brackets around the IPv6 address",
    ),
    "a port twice": (
        copied("address", 0, 2),
        ": replica[2].address 127.0.0.1:7000 is the same as replica[0].address; every address needs its own port",
    ),
    "admin port of another one": (
        put("admin", '"127.0.0.1:7002"', 3),
        ": replica[3].admin 127.0.0.1:7002 is the same as replica[1].address",
    ),
    "no key": (drop("key", 2), ": replica[2].key is missing"),
    "key without its kind": (
        put("key", '"AAAA"', 2),
        ": replica[2].key is not a public key: a public key is written as ed25519: followed by 44 base64 characters",
    ),
    "key that is no base64": (put("key", '"ed25519:?"'), ": replica[0].key is not a public key: the public key is not"),
    "half a key": (
        put("key", '"ed25519:AAAA"'),
        ": replica[0].key is not a public key: the public key has 3 bytes, not 32; copy it whole",
    ),
    "a key twice in the cluster": (
        copied("key", 0, 3),
        ": replica[3].key is the same as replica[0].key; every replica and client needs a key of its own",
    ),
    # [[client]]
    "client is a number": (
        lambda text: "client = 1\n" + without("client", 0)(text),
        ": client must be a list of [[client]] tables",
    ),
    "client without a name": (drop("name", 1), ": client[0].name is missing"),
    "client with a path as its name": (
        put("name", '"../bob"', 2),
        ": client[1].name '../bob' may hold letters, digits, '.', '_' and '-' only",
    ),
    "two clients of one name": (put("name", '"alice"', 2), ": client[1].name 'alice' is used twice"),
    "client with a replica's key": (copied("key", 1, 5), ": client[1].key is the same as replica[1].key"),
    "client without a key": (drop("key", 4), ": client[0].key is missing"),
}


@pytest.mark.scenario("I13")
@pytest.mark.parametrize(("edit", "sentence"), CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_a_configuration_that_cannot_be_used_is_refused(
    cluster: ClusterConfig, refused: Callable[..., str], edit: Edit, sentence: str
) -> None:
    """One line with the file, the key and the remedy; exit code 2. The same file as it was is accepted."""
    text = cluster.path.read_text()
    assert edit(text) != text
    cluster.path.write_bytes(edit(text).encode("utf-8", "surrogateescape"))
    assert refused("status", cluster.path).startswith(f"pbft: {cluster.path}{sentence}")
    with pytest.raises(ConfigError):
        ClusterConfig.load(cluster.path)


@pytest.mark.scenario("I13")
@pytest.mark.parametrize("command", [("up",), ("status",), ("status", "--json"), ("call",), ("replica",)])
def test_every_command_refuses_it_alike(
    cluster: ClusterConfig, refused: Callable[..., str], command: tuple[str, ...]
) -> None:
    """Whatever reads the file says the same sentence."""
    cluster.path.write_text(without("replica", 3)(cluster.path.read_text()))
    words = {"call": ["get"], "replica": ["0"]}.get(command[0], [])
    assert "lists 3 replicas; at least 4 are needed" in refused(*command, cluster.path, *words)


@pytest.mark.parametrize("replicas", [4, 5, 6, 7])
def test_what_init_writes_can_be_read(tmp_path: Path, replicas: int) -> None:
    """Reading gives what writing returned, also with a name, a host and tunables of one's own."""
    written = write_cluster(
        tmp_path / 'a "new" cluster',
        replicas=replicas,
        app="my module:Class",
        host="::1",
        clients=("a", "b"),
        tunables={"checkpoint_interval": 4, "log_window": 8},
    )
    assert ClusterConfig.load(written.path) == written
    assert written.name == 'a "new" cluster' and written.group.app == "my module:Class"
    assert str(written.replicas[0].address) == "[::1]:7000"
    assert written.group.tunables.log_window == 8
    assert sorted(p.name for p in written.keys.iterdir()) == sorted(
        [*(f"replica-{i}.{kind}" for i in range(replicas) for kind in ("key", "token")), "client-a.key", "client-b.key"]
    )
    assert all(p.stat().st_mode & 0o077 == 0 for p in written.keys.iterdir())
