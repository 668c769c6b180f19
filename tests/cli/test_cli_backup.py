"""Backups and exported logs: files that prove themselves, or are refused in a sentence; clusters made of them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from pbft.apps.kv import put
from pbft.authentication import signer
from pbft.backup import BackupError, read_backup, read_genesis
from pbft.batch import AuthKind, Batch, ClientRequest, Kind, decode_batch, encode_batch, open_body, operations_body
from pbft.cli.applications import application_of
from pbft.cli.main import main
from pbft.config_file import ClusterConfig, write_cluster
from pbft.crypto import SigningIdentity, read_private_key
from pbft.execution import Executor
from pbft.exported_log import Certified, Export, ExportError, ExportWriter, read_export
from pbft.messages import Checkpoint, Stable, encode
from pbft.protocol.records import Accepted, Executing, StableCertificate
from pbft.startup import start_replica
from pbft.state_store import StateStore
from pbft.storage.checkpoints import CheckpointStore, write_checkpoint
from pbft.storage.errors import NewerFormat
from pbft.storage.files import RealDirectory

K = 128


def sealed(cluster: ClusterConfig, senders: tuple[int, ...], number: int, digest: bytes) -> tuple[Checkpoint, ...]:
    """CHECKPOINTs of these replicas, signed with their keys."""
    found = []
    for i in senders:
        key = read_private_key(cluster.replica_key_path(i))
        unsigned = Checkpoint(i, 0, number, digest, 1, 1, (), b"")
        sign = signer(SigningIdentity(key, cluster.group.cluster, i, 0))
        found.append(unsigned._replace(seal=sign(unsigned.signed_body(cluster.group.cluster, 0))))
    return tuple(found)


def batches(cluster: ClusterConfig, count: int) -> list[Batch]:
    """One client opens a session and puts keys."""
    client = next(iter(cluster.group.clients))
    found = [encode_batch(1, bytes(16), [ClientRequest(open_body(client, 7, 0), b"")])]
    for n in range(2, count + 1):
        body = operations_body(client, 1 << 16, n - 1, n - 2, 0, [put(b"k%d" % (n % 50), b"v%d" % n)])
        found.append(encode_batch(n, bytes(16), [ClientRequest(body, b"")]))
    return found


def ran(cluster: ClusterConfig, numbers: int) -> Executor:
    """An executor after so many batches."""
    executor = Executor(cluster.group, application_of(cluster))
    for n, batch in enumerate(batches(cluster, numbers), 1):
        executor.execute(n, batch)
    return executor


def backed_up(cluster: ClusterConfig, path: Path, senders: tuple[int, ...] = (0, 1, 3), **other: Any) -> Path:
    """A backup of state 128, signed by these."""
    snapshot = ran(cluster, K).snapshot()
    certificate = sealed(cluster, senders, other.get("number", K), other.get("digest", snapshot.digest))
    meta = snapshot.meta(encode(Stable(certificate)) if certificate else b"")
    write_checkpoint(RealDirectory(path.parent), path.name, K, meta, snapshot.chunks())
    return path


@pytest.fixture
def backup(cluster: ClusterConfig, tmp_path: Path) -> Path:
    """A good one."""
    return backed_up(cluster, tmp_path / "good.backup")


def test_a_backup_is_verified_with_and_without_the_cluster(
    cluster: ClusterConfig, backup: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Offline: the content hashes to what q replicas have signed, under the keys of the cluster, or of the state."""
    assert main(["backup", "verify", str(backup)]) == 0
    out = capsys.readouterr().out
    assert "state 128" in out and "50 keys" in out and "compare the cluster id" in out
    assert main(["backup", "verify", str(backup), "--cluster", str(cluster.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["number"], found["signers"], found["entries"]) == (K, [0, 1, 3], 50)


@pytest.mark.parametrize(
    ("senders", "other", "sentence"),
    [
        ((), {}, "holds no certificate"),
        ((0, 1), {}, "signed by 2 of the 3"),
        ((0, 1, 1, 1), {}, "signed by 2 of the 3"),
        ((0, 1, 2), {"digest": bytes(32)}, "signed by 0 of the 3"),
        ((0, 1, 2), {"number": 2 * K}, "signed by 0 of the 3"),
    ],
)
def test_what_no_quorum_has_signed_is_no_backup(
    senders: tuple[int, ...], other: dict[str, Any], sentence: str, cluster: ClusterConfig, refused: Any, tmp_path: Path
) -> None:
    """q different replicas, this number and this digest."""
    assert sentence in refused("backup", "verify", backed_up(cluster, tmp_path / "b", senders, **other))


def test_a_state_that_lies_in_several_files_is_backed_up_in_one(
    cluster: ClusterConfig, refused: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A replica writes what changed since its last durable checkpoint: such a file alone is no backup."""
    first, second = ran(cluster, K).snapshot(), ran(cluster, 2 * K).snapshot()
    folder = cluster.data_directory(2)
    store = StateStore(CheckpointStore(RealDirectory(folder)), None)
    for snapshot in (first, second):
        certificate = sealed(cluster, (0, 1, 3), snapshot.number, snapshot.digest)
        store.write(snapshot, encode(Stable(certificate)))
    assert len(list(folder.iterdir())) == 2
    assert main(["backup", str(cluster.path), str(tmp_path / "b"), "--as-is", "--replica", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["number"], found["digest"]) == (2 * K, second.digest.hex())
    assert main(["backup", "verify", str(tmp_path / "b"), "--cluster", str(cluster.path)]) == 0
    assert "state 256" in capsys.readouterr().out
    change = tmp_path / "change"
    change.write_bytes(max(folder.iterdir()).read_bytes())
    assert "only what changed after state 128" in refused("backup", "verify", change)


def test_damage_anywhere_is_one_sentence_and_never_a_state(cluster: ClusterConfig, backup: Path) -> None:
    """Each byte of the file, one bit of it; and the file cut at every length."""
    whole = backup.read_bytes()
    chance = random.Random(1)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        backup.write_bytes(damaged)
        with pytest.raises((BackupError, NewerFormat), match=r"good\.backup"):
            read_backup(backup, cluster.group)
    for length in range(0, len(whole), 7):
        backup.write_bytes(whole[:length])
        with pytest.raises(BackupError, match=r"good\.backup"):
            read_backup(backup)


def test_a_backup_of_another_cluster(cluster: ClusterConfig, backup: Path, refused: Any, tmp_path: Path) -> None:
    """It is one, but not this one's; and what is no backup at all is told so."""
    other = write_cluster(tmp_path / "other").path
    assert "is a state of cluster" in refused("backup", "verify", backup, "--cluster", other)
    assert "is no whole backup: bad header at byte 0" in refused("backup", "verify", cluster.path)
    assert "is no file" in refused("backup", "verify", tmp_path)
    assert "exists; choose another name" in refused("backup", "--as-is", cluster.path, backup)
    assert "there is no data of a replica here" in refused("backup", "--as-is", cluster.path, tmp_path / "new")


def started(cluster: ClusterConfig, replica: int) -> Any:
    """A replica as its process would start it."""
    return start_replica(
        cluster.group,
        replica,
        application_of(cluster),
        lambda incarnation: lambda body: bytes(160),
        bytes(16),
        data=cluster.data_directory(replica),
        token=cluster.token_path(replica),
        volatile=False,
        on_durable=lambda position: None,
        on_disk_error=lambda error: None,
        genesis=cluster.genesis_path,
    )


def test_a_new_cluster_begins_with_the_state_of_the_backup(
    cluster: ClusterConfig, backup: Path, refused: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own id and keys, the tunables of the old one, no sessions; every replica needs that very file, at every start
    until it has a state of its own."""
    assert main(["restore", str(backup), str(tmp_path / "new"), "--client", "carol"]) == 0
    made = ClusterConfig.load(tmp_path / "new" / "cluster.toml")
    old = read_backup(backup).state
    assert made.group.cluster != cluster.group.cluster and made.group.genesis == old.digest
    assert made.group.tunables == cluster.group.tunables
    for _ in range(2):
        replica = started(made, 0)
        executor = replica.executor
        assert dict(executor.snapshot().spaces[0].items()) == dict(old.spaces[0].checkpoint().items())
        assert not list(executor.snapshot().spaces[1].items()) and executor.last_executed == 0
        replica.log.close()
        replica.directory.close()
    assert "begin new sessions" in capsys.readouterr().out
    assert "holds a cluster already" in refused("restore", backup, tmp_path / "new")
    other = backed_up(cluster, tmp_path / "other", (0, 1, 2))
    os.replace(other, made.genesis_path)
    read_genesis(made.group, made.genesis_path)  # the same state, signed by others
    made.genesis_path.write_bytes(b"something else")
    with pytest.raises(BackupError, match="is no whole backup"):
        started(made, 1)
    made.genesis_path.unlink()
    with pytest.raises(BackupError, match="this cluster was made from a backup, and needs that very file"):
        started(made, 1)
    with pytest.raises(BackupError, match="is another backup than"):
        read_genesis(cluster.group, backup)


def test_a_replica_that_lost_its_data_begins_with_a_backup(
    cluster: ClusterConfig, backup: Path, refused: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a state to go on from, and no vote until it has recovered; data that is there is never written over."""
    assert main(["restore", str(backup), str(cluster.path.parent), "--replica", "2"]) == 0
    replica = started(cluster, 2)
    assert replica.executor.last_executed == K and "has lost its past" in replica.replica.core.lost
    replica.log.close()
    replica.directory.close()
    assert "votes once it has recovered" in capsys.readouterr().out
    assert "is not empty" in refused("restore", backup, cluster.path.parent, "--replica", "2")
    assert "there is no replica 9" in refused("restore", backup, cluster.path.parent, "--replica", "9")


# ---- the ordered input


def exported(cluster: ClusterConfig, path: Path, count: int, first: int = 1) -> Path:
    """The log of a replica that executed so many batches, with a certificate at each checkpoint."""
    writer = ExportWriter(path, cluster.group.cluster, 0)
    export = Export(writer)
    executor = Executor(cluster.group, application_of(cluster))
    for n, batch in enumerate(batches(cluster, count), 1):
        done = executor.execute(n, batch)
        if n >= first:
            export.record(Accepted(0, n, batch.digest, batch.encoded))
            export.record(Executing(n, batch.digest, b""))
            if done.state_digest:
                export.record(StableCertificate(sealed(cluster, (0, 1, 2), n, done.state_digest)))
    writer.close()
    return path


def replayed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """What `pbft replay` prints."""
    code = main(["replay", "--json", *map(str, words)])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found | {"code": code}


def renamed(cluster: ClusterConfig, app: str) -> str:
    """Its file, with another application."""
    before = cluster.path.read_text()
    after = before.replace(f'app = "{cluster.group.app}"', f'app = "{app}"')
    assert after != before
    return after


def test_a_replay_gives_the_same_states(
    cluster: ClusterConfig, backup: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """From the beginning, and from an older backup; and a point in time becomes a backup of its own."""
    log = exported(cluster, tmp_path / "log", 3 * K + 5)
    whole = replayed(capsys, cluster.path, log)
    assert (whole["began"], whole["ended"], whole["compared"], whole["differing"]) == (0, 3 * K + 5, 3, [])
    later = replayed(capsys, cluster.path, log, "--from", backup)
    assert (later["began"], later["compared"], later["digest"]) == (K, 2, whole["digest"])
    then = tmp_path / "then"
    assert replayed(capsys, cluster.path, log, "--until", 2 * K + 9, "--to", then)["written"] == 2 * K
    assert read_backup(then, cluster.group).state.digest == ran(cluster, 2 * K).snapshot().digest


def test_an_application_that_does_otherwise_is_found(
    cluster: ClusterConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The first state that differs from what a quorum signed is named."""
    log = exported(cluster, tmp_path / "log", 2 * K)
    other = tmp_path / "other.py"
    other.write_text(
        "from pbft.apps.kv import KeyValue\n"
        "class Other(KeyValue):\n"
        "    def execute(self, operation, context):\n"
        "        if context.sequence == 200:\n"
        "            self.state[b'odd'] = b'1'\n"
        "        return super().execute(operation, context)\n"
    )
    cluster.path.write_text(renamed(cluster, f"{other}:Other"))
    found = replayed(capsys, cluster.path, log)
    assert found["code"] == 1 and found["differing"][0] in (K, 2 * K)


def test_an_export_goes_on_where_it_ended(cluster: ClusterConfig, tmp_path: Path) -> None:
    """Again and again into one file; whatever a crash has left half written at its end is cut off."""
    log = exported(cluster, tmp_path / "log", 150)
    whole = list(read_export(log))
    data = log.read_bytes()
    short = exported(cluster, tmp_path / "short", 140)
    begun = short.stat().st_size
    assert data.startswith(short.read_bytes())
    for length in range(begun, min(begun + 400, len(data))):
        short.write_bytes(data[:length])
        exported(cluster, short, 150)
        assert list(read_export(short)) == whole


def test_damage_to_an_export_is_one_sentence(cluster: ClusterConfig, refused: Any, tmp_path: Path) -> None:
    """Every byte: refused, also by whoever would go on writing; but for the content of the last entry, which may be
    half written."""
    log = exported(cluster, tmp_path / "log", 19)
    before = log.stat().st_size
    log = exported(cluster, log, 20)
    whole, data = list(read_export(log)), log.read_bytes()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        log.write_bytes(damaged)
        try:
            found = list(read_export(log))
        except ExportError as error:
            assert str(log) in str(error)
            with pytest.raises(ExportError):
                ExportWriter(log, cluster.group.cluster, 0)
            assert log.read_bytes() == damaged
        else:
            assert found == whole[:-1] and at > before
    assert "is no exported log" in refused("log", "show", cluster.path)
    assert "does not exist" in refused("log", "show", tmp_path / "nothing")
    log.write_bytes(data[:before] + bytes(5000))
    assert list(read_export(log)) == whole[:-1], "what a crash leaves where nothing was written"


def test_a_log_that_nobody_signed_is_said_to_be_so(
    cluster: ClusterConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A replay of it proves nothing; above the last certificate it proves nothing either."""
    log = tmp_path / "log"
    writer = ExportWriter(log, cluster.group.cluster, 0)
    writer.begin(0)
    for n, batch in enumerate(batches(cluster, 2 * K), 1):
        writer.batch(n, batch.encoded)
    writer.close()
    assert main(["replay", str(cluster.path), str(log)]) == 1
    said = capsys.readouterr().out
    assert f"NOT CERTIFIED: batches 1 to {2 * K}" in said and "compared" not in said
    assert replayed(capsys, cluster.path, exported(cluster, tmp_path / "short", 9))["code"] == 0
    whole = exported(cluster, tmp_path / "whole", 3 * K + 5)
    found = replayed(capsys, cluster.path, whole, "--until", 2 * K)
    assert (found["ended"], found["certified"], found["compared"]) == (2 * K, 2 * K, 2)
    assert main(["replay", str(cluster.path), str(whole)]) == 0
    assert f"NOT CERTIFIED: batches {3 * K + 1} to {3 * K + 5}" in capsys.readouterr().out


def test_what_is_no_batch_is_one_sentence(
    cluster: ClusterConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It names the file and the number."""
    writer = ExportWriter(tmp_path / "log", cluster.group.cluster, 0)
    writer.begin(0)
    writer.batch(1, b"no batch")
    writer.close()
    assert main(["log", "show", str(tmp_path / "log")]) == 2
    assert f"{tmp_path / 'log'}: batch 1 cannot be read" in capsys.readouterr().err


def test_a_backup_does_not_say_what_code_runs(cluster: ClusterConfig, refused: Any, tmp_path: Path) -> None:
    """It may name any file; only who restores it may."""
    evil = tmp_path / "evil.py"
    evil.write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\nfrom pbft.apps.kv import KeyValue\n"
    )
    cluster.path.write_text(renamed(cluster, f"{evil}:KeyValue"))
    theirs = ClusterConfig.load(cluster.path)
    file = backed_up(theirs, tmp_path / "theirs.backup")
    (tmp_path / "ran").unlink()
    said = refused("restore", file, tmp_path / "new")
    assert f"{evil}:KeyValue, which is none that ships" in said and "--app" in said
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()
    assert main(["restore", "--app", "kv", str(file), str(tmp_path / "new")]) == 0


def test_a_log_that_does_not_follow_is_refused(cluster: ClusterConfig, refused: Any, tmp_path: Path) -> None:
    """A gap, another cluster, a batch without its body: nothing is written that could not be replayed."""
    found = batches(cluster, 12)
    writer = ExportWriter(exported(cluster, tmp_path / "log", 10), cluster.group.cluster, 0)
    assert writer.last == 10
    with pytest.raises(ExportError, match=r"goes on at batch 12, and .* ends at 10"):
        Export(writer).record(Executing(12, found[11].digest, found[11].encoded))
    with pytest.raises(ExportError, match="holds no body of batch 11"):
        Export(writer).record(Executing(11, found[10].digest, b""))
    writer.close()
    with pytest.raises(ExportError, match="is a log of another cluster"):
        ExportWriter(tmp_path / "log", bytes(32), 0)
    late = exported(cluster, tmp_path / "late", 20, first=9)
    assert next(read_export(late)).after == 8  # type: ignore[union-attr]
    assert "begins after batch 8" in refused("replay", cluster.path, late)


def test_a_certificate_that_no_quorum_signed_is_refused(cluster: ClusterConfig, refused: Any, tmp_path: Path) -> None:
    """An export is worth what its certificates are."""
    log = tmp_path / "log"
    writer = ExportWriter(log, cluster.group.cluster, 0)
    writer.begin(0)
    for n, batch in enumerate(batches(cluster, K), 1):
        writer.batch(n, batch.encoded)
    writer.certificate(sealed(cluster, (0, 1), K, ran(cluster, K).snapshot().digest))
    writer.close()
    assert any(isinstance(entry, Certified) for entry in read_export(log))
    assert "signed by 2 of the 3" in refused("replay", cluster.path, log)


def test_an_export_is_printed(cluster: ClusterConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Who asked for what, and when."""
    log = exported(cluster, tmp_path / "log", 3)
    assert main(["log", "show", "--json", str(log)]) == 0
    out, err = capsys.readouterr()
    head, first, second, _ = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert (head["after"], first["requests"][0]["kind"]) == (0, "open")
    assert second["requests"][0]["operations"] == [put(b"k2", b"v2").hex()]
    assert main(["log", "show", str(log)]) == 0
    assert "ordered number=3" in capsys.readouterr().out
    log.write_bytes(log.read_bytes()[:-1])
    assert main(["log", "show", "--json", str(log)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and f"{log} ends within an entry, at byte" in err
    assert "give `pbft log export CLUSTER.toml FILE`" in (main(["log", "show", "a", "b"]), capsys.readouterr().err)[1]


def test_batches_of_the_tests_are_real(cluster: ClusterConfig) -> None:
    """They execute: else the tests above would compare nothing with nothing."""
    executor = ran(cluster, K)
    assert len(executor.snapshot().spaces[0]) == 50
    assert decode_batch(batches(cluster, 2)[1].encoded).requests[0].kind is Kind.OPERATIONS
    assert AuthKind.SEAL
