"""`pbft status CLUSTER.toml`: one row for each replica, as it says itself."""

from __future__ import annotations

import argparse
import json
import socket
from concurrent.futures import ThreadPoolExecutor

from pbft.cli.output import CLUSTER_HELP, counted, paint, table
from pbft.config import Group
from pbft.config_file import Address, ClusterConfig, ReplicaEntry

FIELDS = (
    "id", "reachable", "view", "primary", "in_view_change", "last_executed", "stable_checkpoint", "stable_digest",
    "low_watermark", "high_watermark", "pending_requests", "connected_peers", "recovering", "uptime_s",
)  # fmt: skip
_MAX_BYTES = 1 << 20
_COLUMNS = """columns:
  replica   its id
  state     up; not voting (the note below says why); cut off (it reaches too few others to vote); changing view;
            late (more than a checkpoint interval behind what f+1 replicas have executed); unreachable
  view      its view; it grows by one or more when a primary is replaced
  primary   the replica that orders requests in this view: view mod n
  executed  the last batch of requests that it has executed; equal, or nearly, on all that are well
  stable    the last batch with a checkpoint that a quorum has signed; older log is dropped
  window    the batch numbers that it would vote for now: above the stable one, up to this many
  pending   requests that it knows of and that are not executed yet
  peers     other replicas that it is connected to
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


def run(args: argparse.Namespace) -> int:
    """Print it; 0 if any replica answers, else 3."""
    config = ClusterConfig.load(args.cluster)
    rows = ask_all(config, 1.0)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(render(rows, config.group))
    return 0 if any(row["reachable"] for row in rows) else 3


def render(rows: list[dict[str, object]], group: Group) -> str:
    """A table, and a sentence about each replica that is not well: it does not vote, it cannot reach a quorum, or f+1
    others have executed more than a checkpoint interval beyond it."""
    reached = sorted(number(row["last_executed"]) for row in rows)[-group.quorums.weak]
    needed = group.quorums.strong - 1
    titles = ["replica", "state", "view", "primary", "executed", "stable", "window", "pending", "peers", "uptime"]
    lines, notes = [], []
    for row in rows:
        if not row["reachable"]:
            lines.append([row["id"], "unreachable", *[None] * 8])
            continue
        lag = reached - number(row["last_executed"])
        alone = number(row["connected_peers"]) < needed
        late = lag > group.tunables.checkpoint_interval
        states = {
            "not voting": row["recovering"],
            "cut off": alone,
            "changing view": row["in_view_change"],
            "late": late,
            "up": True,
        }
        state = next(name for name, holds in states.items() if holds)
        window = f"{row['low_watermark']}..{row['high_watermark']}"
        lines.append([
            row["id"], state, row["view"], row["primary"], row["last_executed"], row["stable_checkpoint"], window,
            row["pending_requests"], row["connected_peers"], f"{row['uptime_s']} s",
        ])  # fmt: skip
        if row.get("volatile"):
            notes.append(f"replica {row['id']} is volatile: what it knows is lost when it stops")
        if row.get("halted"):
            notes.append(f"replica {row['id']} does not vote: {row['halted']}")
        elif row.get("behind"):
            notes.append(f"replica {row['id']} does not vote: it is further behind than the others' retained logs")
        if alone:
            others = counted(number(row["connected_peers"]), "other")
            notes.append(f"replica {row['id']} reaches {others} and needs {needed} to vote")
        if late:
            notes.append(f"replica {row['id']} has executed {counted(lag, 'batch', 'batches')} less than the others")
        if row.get("adversary"):
            notes.append(f"replica {row['id']} misbehaves on purpose: {row['adversary']}")
    return "\n".join([table(titles, lines, left=2), *(paint(note, "yellow") for note in notes)])
