"""Campaigns on real processes, sockets and disks: small ones run in the test suite, big ones from the command line.

python tests/processes/campaign.py kill-all --rounds 20
python tests/processes/campaign.py kill-one --rounds 300
python tests/processes/campaign.py backup-gone --seconds 10 --callers 64
python tests/processes/campaign.py adversary --name flooding --seconds 60
python tests/processes/campaign.py strangers --idle 2000 --seconds 10
python tests/processes/campaign.py kill-primary --rounds 30 --callers 64
python tests/processes/campaign.py two-primaries --rounds 6
python tests/processes/campaign.py all-in-view-change --rounds 5
python tests/processes/campaign.py honest --minutes 30 --busy 1
python tests/processes/campaign.py idle --minutes 10
python tests/processes/campaign.py no-quorum --minutes 15 [--how cut]
python tests/processes/campaign.py wide-area --minutes 10 --delay-ms 75 --loss 0.01 [--how netem]
python tests/processes/campaign.py fairness --rounds 5
python tests/processes/campaign.py eviction-rates --rounds 5 --seconds 20
python tests/processes/campaign.py bit-flips --rounds 10000
python tests/processes/campaign.py lost-disks --rounds 10
python tests/processes/campaign.py crash-anywhere --rounds 20
python tests/processes/campaign.py backup --seconds 20
python tests/processes/campaign.py disk-full --seconds 10
python tests/processes/campaign.py lost-state --mib 300 [--name lying-status | --rounds 20]
python tests/processes/campaign.py large-state --mib 1024 --set state_memory=150
python tests/processes/campaign.py sparse-checkpoint --keys 10000000 --set state_memory=150
python tests/processes/campaign.py endurance --minutes 30 [--plot FILE.png]
python tests/processes/campaign.py difference --keys 100000

Each prints one JSON object; one that ends badly says why and exits with 1. `--set NAME=VALUE` changes a number of
`[protocol]` in the cluster's file; without it the defaults hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from campaigns.backups import backup
from campaigns.common import Load, Row, cluster, free_ports, settle, start, total
from campaigns.crashes import backup_gone, kill_all, kill_one
from campaigns.disks import crash_anywhere
from campaigns.distance import Refused, wide_area, wide_area_netem
from campaigns.endurance import endurance
from campaigns.full import disk_full
from campaigns.honest import honest, idle, no_quorum
from campaigns.large import large_state, sparse_checkpoint
from campaigns.losses import lost_disks
from campaigns.primaries import all_in_view_change, kill_primary, two_primaries
from campaigns.rot import bit_flips
from campaigns.strange import adversary, strangers
from campaigns.transfers import difference, lost_state
from campaigns.unfair import eviction_rates, fairness

__all__ = [
    "Load", "Row", "adversary", "all_in_view_change", "backup", "backup_gone", "bit_flips", "cluster",
    "crash_anywhere", "difference", "disk_full", "endurance", "eviction_rates", "fairness", "free_ports", "honest",
    "idle", "kill_all", "kill_one", "kill_primary", "large_state", "lost_disks", "lost_state", "no_quorum",
    "settle", "sparse_checkpoint", "start", "strangers", "total", "two_primaries", "wide_area", "wide_area_netem",
]  # fmt: skip


def _wide_area(a: argparse.Namespace) -> Row:
    callers = a.callers or 16
    if a.how == "netem":
        return wide_area_netem(a.seconds, a.delay_ms, a.loss, callers)
    return wide_area(a.seconds, a.delay_ms, a.loss, callers, a.seed, proxies=a.how != "plain", **a.tunables)


CAMPAIGNS: dict[str, Callable[[argparse.Namespace], Row]] = {
    "kill-all": lambda a: kill_all(a.rounds or 20, seed=a.seed),
    "kill-one": lambda a: kill_one(a.rounds or 20, seed=a.seed),
    "backup-gone": lambda a: backup_gone(a.seconds, a.callers or 64, a.how or "kill"),
    "adversary": lambda a: adversary(a.name or "lying-replies", a.seconds, liar=a.liar),
    "strangers": lambda a: strangers(a.idle, a.seconds),
    "kill-primary": lambda a: kill_primary(a.rounds or 30, a.callers or 64, a.seed, **a.tunables),
    "two-primaries": lambda a: two_primaries(a.rounds or 4, a.callers or 16, a.seed, **a.tunables),
    "all-in-view-change": lambda a: all_in_view_change(a.rounds or 4, a.callers or 16, **a.tunables),
    "honest": lambda a: honest(a.seconds, a.busy, a.callers or 64, **a.tunables),
    "idle": lambda a: idle(a.seconds, **a.tunables),
    "no-quorum": lambda a: no_quorum(a.seconds, a.how or "stop", a.callers or 8, **a.tunables),
    "wide-area": _wide_area,
    "fairness": lambda a: fairness(a.rounds or 3, a.callers or 8, **a.tunables),
    "bit-flips": lambda a: bit_flips(a.rounds or 200, a.seed),
    "crash-anywhere": lambda a: crash_anywhere(a.rounds or 4, a.seed),
    "lost-disks": lambda a: lost_disks(a.rounds or 4, a.callers or 32, a.seed, **a.tunables),
    "lost-state": lambda a: lost_state(a.mib, a.rounds, a.name, a.stalled, a.callers or 16, a.seed, **a.tunables),
    "large-state": lambda a: large_state(a.mib, **a.tunables),
    "sparse-checkpoint": lambda a: sparse_checkpoint(a.keys, seconds=a.seconds, **a.tunables),
    "endurance": lambda a: endurance(a.seconds, a.callers or 64, a.seed, a.plot, **a.tunables),
    "difference": lambda a: difference(a.keys),
    "disk-full": lambda a: disk_full(a.seconds, a.callers or 32),
    "backup": lambda a: backup(a.seconds, a.callers or 32),
    "eviction-rates": lambda a: eviction_rates(a.rounds or 3, a.seconds, a.callers or 32, a.busy, **a.tunables),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=CAMPAIGNS)
    parser.add_argument("--rounds", type=int, default=0, help="0: as many as the campaign thinks fit")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--minutes", type=float, help="instead of --seconds")
    parser.add_argument("--callers", type=int, default=0, help="0: as many as the campaign thinks fit")
    parser.add_argument("--how", choices=("stop", "kill", "cut", "plain", "netem"))
    parser.add_argument("--name", default="", help="a misbehaviour; see `pbft simulate --help`")
    parser.add_argument("--mib", type=int, default=300, help="size of the state")
    parser.add_argument("--stalled", type=float, default=0.0, help="seconds for which a source stands still")
    parser.add_argument("--plot", default="", help="PNG of disk and memory over time")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--liar", type=int, default=3, help="the replica that misbehaves")
    parser.add_argument("--idle", type=int, default=2000, help="connections that say nothing")
    parser.add_argument("--busy", type=int, default=1, help="cores that something else keeps busy")
    parser.add_argument("--delay-ms", type=float, default=75.0, help="in each direction")
    parser.add_argument("--loss", type=float, default=0.01, help="share of the segments, in each direction")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="tunables")
    args = parser.parse_args()
    if args.minutes is not None:
        args.seconds = args.minutes * 60
    args.tunables = {name: int(value) for name, _, value in (text.partition("=") for text in args.tunables)}
    return args


def main() -> None:
    """Run one campaign and print what it found."""
    logging.getLogger("pbft").addHandler(logging.NullHandler())
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # replicas and folders go, too
    args = _arguments()
    begun = time.monotonic()
    try:
        found = CAMPAIGNS[args.what](args)
    except Refused as refusal:
        found = {"skipped": str(refusal)}
    print(json.dumps(found | {"took_s": round(time.monotonic() - begun, 1)}, indent=1))


if __name__ == "__main__":
    main()
