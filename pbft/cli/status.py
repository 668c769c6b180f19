"""`pbft status CLUSTER.toml`: one row for each replica, as it says itself."""

from __future__ import annotations

import argparse
import json
import socket
from concurrent.futures import ThreadPoolExecutor

from pbft.cli.output import CLUSTER_HELP, counted, listed, paint, table
from pbft.config import Group
from pbft.config_file import Address, ClusterConfig, ReplicaEntry

FIELDS = (
    "id", "reachable", "view", "primary", "in_view_change", "last_executed", "stable_checkpoint", "stable_digest",
    "low_watermark", "high_watermark", "pending_requests", "connected_peers", "recovering", "uptime_s",
)  # fmt: skip
LONG = 0.5
"""Seconds that a request may wait without anything being wrong."""

_MAX_BYTES = 1 << 20
_COLUMNS = """columns:
  replica   its id
  state     up; not voting (the note below says why); cut off (it reaches too few others to vote); changing view;
            late (a lag of more than a checkpoint interval); waiting (a request waits for more than half a second);
            unreachable
  view      its view; it grows by one or more when a primary is replaced
  primary   the replica that orders requests in this view: view mod n
  executed  the last batch of requests that it has executed; equal, or nearly, on all that are well
  lag       batches that f+1 replicas have executed and it has not
  stable    the last batch with a checkpoint that a quorum has signed; older log is dropped
  window    the batch numbers that it would vote for now: above the stable one, up to this many
  pending   requests that it knows of and that are not executed yet
  peers     other replicas that it is connected to
  timer     until it leaves the view, because a request waits or a new view does not begin; - while none does
  uptime    since its process started"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft status`."""
    parser.add_argument("cluster", metavar="CLUSTER.toml", help=CLUSTER_HELP)
    parser.add_argument("--json", action="store_true", help="print a list of objects instead, one for each replica")
    parser.epilog = _COLUMNS


def ask(replica: int, admin: Address, seconds: float) -> dict[str, object]:
    """The status of one replica; with `reachable` false and nothing else known if it does not answer in time."""
    try:
        with socket.create_connection((admin.host, admin.port), seconds) as connection:
            connection.settimeout(seconds)
            data = b""
            while not data.endswith(b"\n") and len(data) < _MAX_BYTES:
                part = connection.recv(65536)
                if not part:
                    break
                data += part
        found = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return unknown(replica)
    if not isinstance(found, dict) or found.get("id") != replica:
        return unknown(replica)
    return {**unknown(replica), **{name: _harmless(value) for name, value in found.items()}}


def unknown(replica: int) -> dict[str, object]:
    """The status of a replica that does not answer."""
    return dict.fromkeys(FIELDS) | {"id": replica, "reachable": False}


def _harmless(value: object) -> object:
    """A value for the terminal: what a replica says must not command it."""
    return "".join(c if c.isprintable() else "?" for c in value) if isinstance(value, str) else value


def ask_all(config: ClusterConfig, seconds: float) -> list[dict[str, object]]:
    """All replicas, at the same time. A replica of another cluster at one of the addresses is none of this one."""
    own = (None, config.group.cluster.hex())

    def one(entry: ReplicaEntry) -> dict[str, object]:
        row = ask(entry.id, entry.admin, seconds)
        return row if row.get("cluster") in own else unknown(entry.id)

    with ThreadPoolExecutor(len(config.replicas)) as pool:
        return list(pool.map(one, config.replicas))


def number(value: object) -> int:
    """A whole number of a status, 0 where a replica did not say."""
    return value if isinstance(value, int) else 0


def seconds(value: object) -> float | None:
    """Seconds of a status; None where a replica did not say."""
    return float(value) if isinstance(value, int | float) else None


def run(args: argparse.Namespace) -> int:
    """Print it; 0 if any replica answers, else 3."""
    config = ClusterConfig.load(args.cluster)
    rows = ask_all(config, 1.0)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(render(rows, config.group))
    return 0 if any(row["reachable"] for row in rows) else 3


_TITLES = (
    "replica", "state", "view", "primary", "executed", "lag", "stable", "window", "pending", "peers", "timer", "uptime",
)  # fmt: skip


def render(rows: list[dict[str, object]], group: Group) -> str:
    """A table, and a sentence about each replica that is not well: it does not vote, it cannot reach a quorum, a
    request waits there, or f+1 others have executed more than a checkpoint interval beyond it."""
    reached = sorted(number(row["last_executed"]) for row in rows)[-group.quorums.weak]
    lines: list[list[object]] = []
    notes: list[str] = []
    for row in rows:
        if not row["reachable"]:
            lines.append([row["id"], "unreachable", *[None] * (len(_TITLES) - 2)])
            continue
        health = _Health(row, reached, group)
        lines.append([row["id"], health.state(), *_figures(row, health.lag)])
        notes += [f"replica {row['id']} {note}" for note in health.notes()]
    return "\n".join([table(_TITLES, lines, left=2), *(paint(note, "yellow") for note in notes)])


def _figures(row: dict[str, object], lag: int) -> list[object]:
    timer = seconds(row.get("timer_s"))
    return [
        row["view"], row["primary"], row["last_executed"], max(lag, 0), row["stable_checkpoint"],
        f"{row['low_watermark']}..{row['high_watermark']}", row["pending_requests"], row["connected_peers"],
        None if timer is None else f"{timer:.1f} s", f"{row['uptime_s']} s",
    ]  # fmt: skip


_BAR = 24
"""Characters of a progress bar."""


def _told(transfer: dict[object, object]) -> str:
    """How far a replica is that fetches a state, and from whom it does."""
    share = min(1.0, seconds(transfer.get("share")) or 0.0)
    rate, sources = number(transfer.get("rate")) / (1 << 20), transfer.get("sources")
    bar = "".join("#" if (i + 0.5) / _BAR < share else "." for i in range(_BAR))
    whom = listed([number(s) for s in sources]) if isinstance(sources, list) and sources else "nobody yet"
    return (
        f"state {number(transfer.get('number'))}: [{bar}] about {share:.0%}, {number(transfer.get('pieces'))} pieces, "
        f"{number(transfer.get('bytes')) / (1 << 20):.1f} MiB, {rate:.1f} MiB/s from {whom}"
    )


class _Health:
    """Whether a replica that answers is well."""

    def __init__(self, row: dict[str, object], reached: int, group: Group) -> None:
        self._row = row
        self._needed = group.quorums.strong - 1
        self._is_alone = number(row["connected_peers"]) < self._needed
        self._waited = seconds(row.get("request_waited_s")) or 0.0
        self.lag = reached - number(row["last_executed"])
        repairs = row.get("repairs")
        self._repaired = _harmless(repairs[-1]) if isinstance(repairs, list) and repairs else ""
        self._is_late = self.lag > group.tunables.checkpoint_interval

    def state(self) -> str:
        """One word or two: the worst that holds."""
        states = {
            "not voting": self._row["recovering"],
            "cut off": self._is_alone,
            "changing view": self._row["in_view_change"],
            "late": self._is_late,
            "waiting": self._waited > LONG,
            "up": True,
        }
        return next(name for name, holds in states.items() if holds)

    def notes(self) -> list[str]:
        """What is to be said of it, after its number."""
        row = self._row
        others = counted(number(row["connected_peers"]), "other")
        behind = "it is further behind than the others' retained logs" if row.get("behind") else ""
        said = {
            "is volatile: what it knows is lost when it stops": row.get("volatile"),
            f"does not vote: {row.get('halted') or behind}": row.get("halted") or behind,
            f"reaches {others} and needs {self._needed} to vote": self._is_alone,
            f"has a request that waits for {self._waited:.1f} s": self._waited > LONG,
            f"has executed {counted(self.lag, 'batch', 'batches')} less than the others": self._is_late,
            f"had another state than a quorum signed, and has mended it: {self._repaired}": self._repaired,
            f"misbehaves on purpose: {row.get('adversary')}": row.get("adversary"),
        }
        transfer = row.get("transfer")
        if isinstance(transfer, dict):
            said[f"fetches {_told(transfer)}"] = True
        return [note for note, holds in said.items() if holds]
