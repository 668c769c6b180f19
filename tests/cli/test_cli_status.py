"""What `pbft status` says of replicas that are not well: never that they are up."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pbft.cli.main import main
from pbft.cli.status import FIELDS, ask, render
from pbft.config import Group
from pbft.config_file import Address, ClusterConfig

Row = dict[str, Any]


def row(replica: int, **fields: object) -> Row:
    """What a replica in good health says, but for these fields."""
    return {
        "id": replica, "reachable": True, "view": 0, "primary": 0, "in_view_change": False, "last_executed": 1000,
        "stable_checkpoint": 896, "stable_digest": "d1", "low_watermark": 896, "high_watermark": 1152,
        "pending_requests": 3, "connected_peers": 3, "recovering": False, "uptime_s": 7.5, "halted": "",
    } | fields  # fmt: skip


def rows(**fields: object) -> list[Row]:
    """Four replicas, of which the last one is as `fields` say."""
    return [row(0), row(1), row(2), row(3, **fields)]


def states(found: list[Row], group: Group) -> tuple[list[str], list[str]]:
    """The states in the table, and the notes below it."""
    lines = render(found, group).splitlines()
    return [re.split("  +", line)[1] for line in lines[1 : len(found) + 1]], lines[len(found) + 1 :]


# Fields of the last replica, what the table calls it, what the note says.
UNWELL: dict[str, tuple[Row, str, str]] = {
    "isolated": ({"connected_peers": 0}, "cut off", "replica 3 reaches 0 others and needs 2 to vote"),
    "one link": ({"connected_peers": 1}, "cut off", "replica 3 reaches 1 other and needs 2 to vote"),
    "late": ({"last_executed": 871}, "late", "replica 3 has executed 129 batches less than the others"),
    "changing view": ({"in_view_change": True}, "changing view", ""),
    "fetching": (
        {
            "transfer": {
                "number": 8,
                "pieces": 120,
                "bytes": 3 << 20,
                "fetched": 2 << 20,
                "waiting": 9,
                "share": 0.25,
                "rate": 1 << 20,
                "sources": [0, 2],
            }
        },
        "up",
        "replica 3 fetches state 8: [######..................] about 25%, 120 pieces, 3.0 MiB, 1.0 MiB/s from 0 and 2",
    ),
    "fetching in words": (
        {"transfer": {"number": "\x1b", "sources": ["\x1b"], "share": "all"}},
        "up",
        f"replica 3 fetches state 0: [{'.' * 24}] about 0%, 0 pieces, 0.0 MiB, 0.0 MiB/s from 0",
    ),
    "repaired": (
        {"repairs": ["an older one", "state 8 is repaired: 1 key\x1b differed"]},
        "up",
        "replica 3 had another state than a quorum signed, and has mended it: state 8 is repaired: 1 key? differed",
    ),
    "halted": (
        {"recovering": True, "halted": "the disk failed"},
        "not voting",
        "replica 3 does not vote: the disk failed",
    ),
    "too far behind": (
        {"recovering": True, "behind": True, "last_executed": 999},
        "not voting",
        "replica 3 does not vote: it is further behind than the others' retained logs",
    ),
    "waiting": (
        {"request_waited_s": 1.25, "timer_s": 0.75},
        "waiting",
        "replica 3 has a request that waits for 1.2 s",
    ),
    "volatile": ({"volatile": True}, "up", "replica 3 is volatile: what it knows is lost when it stops"),
    "lying": ({"adversary": "silent"}, "up", "replica 3 misbehaves on purpose: silent"),
}


@pytest.mark.scenario("I06")
@pytest.mark.parametrize(("fields", "state", "note"), UNWELL.values(), ids=UNWELL.keys())
def test_a_replica_that_is_not_well_is_not_called_up(written: Path, fields: Row, state: str, note: str) -> None:
    """Its row says what it is, a sentence says why; the others' rows stay as they are."""
    group = ClusterConfig.load(written / "cluster.toml").group
    assert states(rows(**fields), group) == (["up", "up", "up", state], [note] if note else [])


@pytest.mark.scenario("I06")
def test_the_table_shows_what_runs_and_how_far_it_is(written: Path) -> None:
    """View, primary, last executed, lag behind what f+1 have executed, stable checkpoint, window, pending requests,
    peers and the timer."""
    group = ClusterConfig.load(written / "cluster.toml").group
    found = rows(last_executed=995, view=2, primary=2, timer_s=0.75, connected_peers=2)
    titles, *lines = [re.split("  +", line) for line in render(found, group).splitlines()]
    shown = dict(zip(titles, lines[3], strict=True))
    assert shown == {
        "replica": "3", "state": "up", "view": "2", "primary": "2", "executed": "995", "lag": "5", "stable": "896",
        "window": "896..1152", "pending": "3", "peers": "2", "timer": "0.8 s", "uptime": "7.5 s",
    }  # fmt: skip
    well = dict(zip(titles, lines[0], strict=True))
    assert (well["view"], well["lag"], well["timer"]) == ("0", "0", "-")


@pytest.mark.scenario("I06")
def test_health_is_judged_by_what_f_plus_1_say(written: Path) -> None:
    """A little apart is good health; one that claims to be far ahead makes no other late."""
    group = ClusterConfig.load(written / "cluster.toml").group
    assert states(rows(last_executed=900), group) == (["up"] * 4, [])
    assert states(rows(last_executed=10**9), group) == (["up"] * 4, [])
    down = dict.fromkeys(FIELDS) | {"id": 3, "reachable": False}
    assert states([row(0), row(1), row(2), down], group) == (["up", "up", "up", "unreachable"], [])


@contextmanager
def answering(data: bytes) -> Iterator[Address]:
    """Something at an admin address that sends these bytes to whoever connects, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield Address("127.0.0.1", listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


# What stands at the admin address of replica 3, and whether that is an answer.
ANSWERS: dict[str, tuple[bytes, bool]] = {
    "status": (json.dumps(row(3)).encode() + b"\n", True),
    "another replica": (json.dumps(row(2)).encode() + b"\n", False),
    "no end": (json.dumps(row(3)).encode()[:-1], False),
    "nothing": (b"", False),
    "no JSON": (b"HTTP/1.1 400 Bad Request\r\n", False),
    "a list": (b"[]\n", False),
    "no UTF-8": (b"\xff\xfe\n", False),
    "more than a status": (b" " * (2 << 20) + b"{}\n", False),
    "nested deep": (b"[" * 100_000 + b"\n", False),
}


@pytest.mark.scenario("I06")
@pytest.mark.parametrize(("data", "is_status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_is_no_status_counts_as_unreachable(data: bytes, is_status: bool) -> None:
    """Whatever listens there: an object with the replica's own number is a status, everything else is not."""
    with answering(data) as address:
        found = ask(3, address, 5.0)
    assert found["reachable"] is is_status and found["id"] == 3
    assert set(FIELDS) <= set(found)


def test_a_status_does_not_command_the_terminal(written: Path) -> None:
    """Control characters in what a replica says are shown as question marks."""
    said = row(3, halted="\x1b[2Jgone\r\n", recovering=True, view="\x1b[1m", stable_digest=["\x07"])
    with answering(json.dumps(said).encode() + b"\n") as address:
        found = ask(3, address, 5.0)
    text = render([row(0), row(1), row(2), found], ClusterConfig.load(written / "cluster.toml").group)
    assert "replica 3 does not vote: ?[2Jgone??" in text
    assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.scenario("I06")
def test_a_cluster_that_is_down_is_told_by_the_exit_code(
    cluster: ClusterConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody answers: exit code 3, with a row for each replica all the same."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        text = cluster.path.read_text()
        for entry in cluster.replicas:
            text = text.replace(f'"{entry.admin}"', f'"127.0.0.{entry.id + 1}:{port}"')
        cluster.path.write_text(text)
        assert main(["status", "--json", str(cluster.path)]) == 3
    assert [(r["id"], r["reachable"]) for r in json.loads(capsys.readouterr().out)] == [(i, False) for i in range(4)]
