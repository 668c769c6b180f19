"""`pbft data`: what stands in a data directory, and what is wrong with it; nothing is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pbft.batch import NULL_DIGEST
from pbft.cli.applications import application_of
from pbft.cli.main import main
from pbft.config_file import ClusterConfig, write_cluster
from pbft.execution import Executor
from pbft.messages import Checkpoint
from pbft.protocol.records import Accepted, Boot, Executing, Prepared, Record, StableCertificate, encode_record
from pbft.storage.data_directory import DataDirectory

RECORDS: tuple[Record, ...] = (
    Boot(1),
    Accepted(0, 1, NULL_DIGEST, b""),
    Prepared(0, 1, NULL_DIGEST),
    Executing(1, NULL_DIGEST, b""),
)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def lived(cluster: ClusterConfig, *groups: tuple[Record, ...], close: bool = True) -> Path:
    """A data directory with these groups of records in its log."""
    folder = cluster.data_directory(0)
    with DataDirectory.open(folder, cluster=cluster.group.cluster, replica=0, token=cluster.token_path(0)) as opened:
        wal, replay = opened.open_log()
        replay.finish()
        for group in groups:
            wal.write_group([encode_record(record) for record in group])
        if close:
            wal.close()
    return folder


def test_a_whole_directory(cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Verified without and with the keys; the log record by record; and all stays as it was."""
    folder = lived(cluster, RECORDS)
    before = contents(folder)
    assert main(["data", "verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "4 records in 1 file" in out and "nothing is damaged" in out
    assert main(["data", "verify", str(folder), "--cluster", str(cluster.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["executing"], found["view"], found["phase"], found["problems"]) == (1, 0, "started", [])
    assert main(["data", "show", str(folder), "--from", "2", "--limit", "2"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["2", "Accepted"], ["3", "Prepared"]]
    assert main(["data", "show", str(folder), "--json"]) == 0
    assert next(json.loads(line)["record"] for line in capsys.readouterr().out.splitlines()) == "Boot"
    assert contents(folder) == before


def test_a_torn_tail_is_told_and_left_alone(cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """A write that a crash interrupted is no damage, and cutting it off is for the next start."""
    folder = lived(cluster, RECORDS, RECORDS[1:], close=False)
    [log] = folder.glob("log-*")
    data = log.read_bytes()
    end = len(data.rstrip(b"\0"))
    log.write_bytes(data[: end - 3] + bytes(len(data) - end + 3))
    before = contents(folder)
    assert main(["data", "verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "ends in the middle of a write" in out and "nothing is damaged" in out
    assert contents(folder) == before


@pytest.mark.parametrize("what", ["verify", "show"])
def test_damage_is_named(what: str, cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """File, byte and record of what was durable and is wrong now."""
    folder = lived(cluster, RECORDS, RECORDS[1:])
    [log] = folder.glob("log-*")
    data = bytearray(log.read_bytes())
    data[180] ^= 1
    log.write_bytes(data)
    assert main(["data", what, str(folder)]) == (1 if what == "verify" else 2)
    told = "".join(capsys.readouterr())
    assert log.name in told and "damaged at byte" in told and "durable record" in told


def test_an_export_does_not_end_at_damage_without_a_word(
    cluster: ClusterConfig, tmp_path: Path, refused: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands before the damage is written; that more was there is said, and the exit code is not 0."""
    folder = lived(cluster, RECORDS, RECORDS[1:])
    assert main(["log", "export", str(cluster.path), str(tmp_path / "whole")]) == 0
    assert "1 batch written" in capsys.readouterr().out
    [log] = folder.glob("log-*")
    data = bytearray(log.read_bytes())
    data[180] ^= 1
    log.write_bytes(data)
    said = refused("log", "export", cluster.path, tmp_path / "export")
    assert log.name in said and "damaged at byte" in said


def test_a_checkpoint_is_hashed(cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """With the keys its state is hashed and compared with the certificate in the log; a certificate without enough
    signatures is damage as well."""
    folder = lived(cluster, RECORDS)
    snapshot = Executor(cluster.group, application_of(cluster)).snapshot()
    with DataDirectory.open(folder, cluster=cluster.group.cluster, replica=0, token=None) as opened:
        opened.open_checkpoints().write(0, snapshot.meta(), snapshot.chunks())
    words = ["data", "verify", str(folder), "--cluster", str(cluster.path)]
    assert main(words) == 0
    assert "no certificate in the log names" in capsys.readouterr().out
    [file] = folder.glob("checkpoint-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-40] + bytes(40))
    assert main(words) == 1
    assert f"DAMAGED: checkpoint file {file.name}" in capsys.readouterr().out
    file.write_bytes(whole)
    forged = tuple(Checkpoint(i, 0, 128, bytes(32), 1, 1, (), bytes(160)) for i in range(3))
    with DataDirectory.open(folder, cluster=cluster.group.cluster, replica=0, token=None) as opened:
        wal, replay = opened.open_log()
        replay.finish()
        wal.write_group([encode_record(StableCertificate(forged))])
        wal.close()
    assert main(words) == 1
    assert "signatures do not verify" in capsys.readouterr().out


def test_what_is_no_data_directory_at_rest(cluster: ClusterConfig, refused: Any, tmp_path: Path) -> None:
    """One that a replica works on, one of another cluster, an empty one, none."""
    folder = lived(cluster, RECORDS)
    with DataDirectory.open(folder, cluster=cluster.group.cluster, replica=0, token=None):
        assert "is in use by process" in refused("data", "verify", folder)
    assert "is no data directory of a replica" in refused("data", "verify", cluster.path.parent / "keys")
    assert "nothing is no directory; name the data directory" in refused("data", "verify", tmp_path / "nothing")
    other = write_cluster(tmp_path / "other", app="kv", clients=("alice",)).path
    assert "belongs to cluster" in refused("data", "verify", folder, "--cluster", other)


def test_a_folder_that_holds_data_directories_is_not_taken_for_a_lost_one(
    cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody shall move `data/` away, with all that is in it, because one folder was forgotten in a command."""
    folder = lived(cluster, RECORDS)
    for above in (folder.parent, cluster.path.parent):
        assert main(["data", "verify", str(above)]) == 2
        said = capsys.readouterr().err
        assert f"{above} is no data directory of a replica" in said and f"did you mean {folder}?" in said
        assert "move" not in said
    (cluster.path.parent / "empty").mkdir()
    assert main(["data", "verify", str(cluster.path.parent / "empty")]) == 2
    assert "name one, such as vote/data/replica-0" in capsys.readouterr().err
