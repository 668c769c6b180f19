"""A table of key files, start tokens and data directories with which no replica starts and no client calls."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pbft.config_file import ClusterConfig
from pbft.crypto import PrivateKey, write_private_key
from pbft.storage.data_directory import DataDirectory

KEY = "keys/replica-0.key"
TOKEN = "keys/replica-0.token"
DATA = "data/replica-0"


def written(name: str, content: bytes, mode: int = 0o600) -> Callable[[Path], None]:
    """A file has this content instead of its own."""

    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)

    return damage


def copied(source: str, target: str) -> Callable[[Path], None]:
    """A file stands in the place of another one."""

    def damage(folder: Path) -> None:
        shutil.copyfile(folder / source, folder / target)

    return damage


def folder_for(name: str) -> Callable[[Path], None]:
    """A folder stands where a file should."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir(mode=0o700)

    return damage


def changed_key(folder: Path) -> None:
    """Alice has a new key that the file does not list."""
    (folder / "keys/client-alice.key").unlink()
    write_private_key(folder / "keys/client-alice.key", PrivateKey.from_seed(bytes(32)))


def used_by(replica: int, cluster: bytes | None = None) -> Callable[[Path], None]:
    """The data directory was another replica's, or another cluster's."""

    def damage(folder: Path) -> None:
        owner = cluster or ClusterConfig.load(folder / "cluster.toml").group.cluster
        DataDirectory.open(folder / DATA, cluster=owner, replica=replica, token=None).close()

    return damage


def newer(folder: Path) -> None:
    """A later release has written here."""
    used_by(0)(folder)
    content = bytearray((folder / DATA / "identity").read_bytes())
    content[8] = 9
    content[12:16] = zlib.crc32(content[:12]).to_bytes(4, "little")
    (folder / DATA / "identity").write_bytes(content)


def unknown_application(folder: Path) -> None:
    """The file names an application that is not there."""
    path = folder / "cluster.toml"
    before, app, after = path.read_text().partition('app = "kv"')
    assert app
    path.write_text(f'{before}app = "no.such:Thing"{after}')


# {f} is the folder of the cluster.
REPLICA: dict[str, tuple[Callable[[Path], None], str]] = {
    "no key": (
        lambda folder: (folder / KEY).unlink(),
        f"pbft: {{f}}/{KEY} does not exist; copy the private key there (`pbft init` makes the "
        "keys of a new cluster; one of a running cluster that is lost cannot be made again)",
    ),
    "no keys at all": (lambda folder: shutil.rmtree(folder / "keys"), f"pbft: {{f}}/{KEY} does not exist; copy the"),
    "key open to others": (
        lambda folder: (folder / KEY).chmod(0o644),
        f"pbft: {{f}}/{KEY} is open to other users; run: chmod 600 {{f}}/{KEY}",
    ),
    "empty key": (written(KEY, b""), f"pbft: {{f}}/{KEY} is not a whole private key file; restore it from a copy"),
    "key that is something else": (
        written(KEY, b"ssh-ed25519 AAAA\n"),
        f"pbft: {{f}}/{KEY} is not a whole private key",
    ),
    "folder for a key": (folder_for(KEY), f"pbft: {{f}}/{KEY} is not a regular file; put the key file in its place"),
    "key of another replica": (
        copied("keys/replica-1.key", KEY),
        f"pbft: {{f}}/{KEY} is not the private key of replica[0].key in {{f}}/cluster.toml; copy that one",
    ),
    "key of a client": (
        copied("keys/client-bob.key", KEY),
        f"pbft: {{f}}/{KEY} is not the private key of replica[0].key",
    ),
    "empty token": (written(TOKEN, b""), f"pbft: {{f}}/{TOKEN} is damaged (too short); check the disk"),
    "token of something else": (written(TOKEN, bytes(64)), f"pbft: {{f}}/{TOKEN} is damaged (bad header); check the"),
    "token of another replica": (copied("keys/replica-1.token", TOKEN), f"pbft: {{f}}/{TOKEN} belongs to replica 1 of"),
    "file for the data": (
        written(DATA, b""),
        f"pbft: data directory {{f}}/{DATA} cannot be used (File exists: {{f}}/{DATA}); give this user a directory",
    ),
    "file above the data": (
        written("data", b""),
        f"pbft: data directory {{f}}/{DATA} cannot be used (Not a directory: {{f}}/{DATA}); give this user a directory",
    ),
    "lock that is a folder": (
        lambda folder: (folder / DATA / "lock").mkdir(parents=True),
        f"pbft: data directory {{f}}/{DATA} cannot be used (Is a directory: {{f}}/{DATA}/lock)",
    ),
    "data of another replica": (
        used_by(1),
        f"pbft: {{f}}/{DATA}/identity belongs to replica 1 of cluster ",
    ),
    "data of another cluster": (
        used_by(0, b"other"),
        f"pbft: {{f}}/{DATA}/identity belongs to replica 0 of cluster 6f",
    ),
    "data of a later release": (
        newer,
        f"pbft: {{f}}/{DATA}/identity has format version 9, this software reads up to version 1; start it with",
    ),
    "empty identity": (written(f"{DATA}/identity", b""), f"pbft: {{f}}/{DATA}/identity is damaged (too short);"),
    "damaged identity": (
        written(f"{DATA}/identity", bytes(99)),
        f"pbft: {{f}}/{DATA}/identity is damaged (bad header);",
    ),
    "unknown application": (
        unknown_application,
        "pbft: {f}/cluster.toml: cluster.app: application 'no.such:Thing': cannot import no.such: ",
    ),
}

CLIENT: dict[str, tuple[Callable[[Path], None], str]] = {
    "no key": (
        lambda folder: (folder / "keys/client-alice.key").unlink(),
        "pbft: {f}/keys/client-alice.key does not exist",
    ),
    "key open to others": (
        lambda folder: (folder / "keys/client-alice.key").chmod(0o660),
        "pbft: {f}/keys/client-alice.key is open to other users; run: chmod 600 {f}/keys/client-alice.key",
    ),
    "half a key": (
        written("keys/client-alice.key", b"pbft-"),
        "pbft: {f}/keys/client-alice.key is not a whole private",
    ),
    "key that is not listed": (
        changed_key,
        "pbft: {f}/cluster.toml: the key of client 'alice' is not listed under [[client]]; list ed25519:",
    ),
    "unknown application": (unknown_application, "pbft: {f}/cluster.toml: cluster.app: application 'no.such:Thing'"),
}


@pytest.mark.scenario("I13")
@pytest.mark.parametrize(("damage", "sentence"), REPLICA.values(), ids=REPLICA.keys())
def test_a_replica_with_wrong_files_does_not_start(
    cluster: ClusterConfig, refused: Callable[..., str], damage: Callable[[Path], None], sentence: str
) -> None:
    """One sentence with the file and the remedy; the start token is not used up by a start that was refused."""
    folder = cluster.path.parent
    damage(folder)
    token = (folder / TOKEN).read_bytes() if (folder / TOKEN).exists() else None
    assert refused("replica", cluster.path, 0).startswith(sentence.format(f=folder))
    assert token is None or (folder / TOKEN).read_bytes() == token


@pytest.mark.scenario("I13")
@pytest.mark.parametrize(("damage", "sentence"), CLIENT.values(), ids=CLIENT.keys())
def test_a_client_with_wrong_files_does_not_call(
    cluster: ClusterConfig, refused: Callable[..., str], damage: Callable[[Path], None], sentence: str
) -> None:
    """One sentence with the file and the remedy, before any connection is made."""
    damage(cluster.path.parent)
    assert refused("call", "--as", "alice", cluster.path, "get", "k").startswith(sentence.format(f=cluster.path.parent))


@pytest.mark.scenario("I13")
def test_a_data_directory_that_may_not_be_read_is_named(
    cluster: ClusterConfig, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may be allowed everything, so the system call says no in its place."""
    directory = cluster.data_directory(0)
    real = os.open

    def forbidding(path: str | Path, *rest: int, **more: int) -> int:
        if Path(path).parent == directory:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr("pbft.storage.data_directory.os.open", forbidding)
    sentence = refused("replica", cluster.path, 0, "--data", directory)
    assert sentence.startswith(
        f"pbft: data directory {directory} cannot be used (Permission denied: {directory}/lock);"
    )


@pytest.mark.scenario("B20", "I13")
def test_a_data_directory_in_use_is_named_with_its_process(cluster: ClusterConfig, refused: Callable[..., str]) -> None:
    """Other ports change nothing: the directory is locked, and stays as it is."""
    path = cluster.data_directory(0)
    with DataDirectory.open(path, cluster=cluster.group.cluster, replica=0, token=cluster.token_path(0)) as held:
        before = {p.name: p.read_bytes() for p in path.iterdir()}
        sentence = refused("replica", cluster.path, 0, "--listen", "127.0.0.1:9", "--peer", "1=127.0.0.1:9")
        assert sentence.startswith(f"pbft: data directory {path} is in use by process {os.getpid()}; stop that replica")
        assert {p.name: p.read_bytes() for p in path.iterdir()} == before
        assert held.boot == 1
