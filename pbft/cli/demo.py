"""`pbft demo`: the main job in under a minute, with nothing left behind.

Four replicas as processes count for 64 callers. Replica 0, the primary, is in the hands of an enemy: first it lies to
the client in every reply, then it also proposes different batches to different backups, until they replace it. The next
primary is killed, replaced as well, and brought back. At the end everything that was acknowledged is checked.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from pbft.apps.counter import get, inc
from pbft.cli.children import Children
from pbft.cli.main import first_of
from pbft.cli.output import paint
from pbft.cli.status import ask_all
from pbft.client import Client, ClientError
from pbft.config import ConfigError
from pbft.config_file import ClusterConfig, write_cluster
from pbft.evidence import decode_proof, explain

ENEMY = 0
VICTIM = 1
LAST = 3
"""A replica that nothing happens to."""
CALLERS = 64
TUNABLES = {"checkpoint_interval": 16, "log_window": 128}
"""Many checkpoints in a short time, so that whoever signs wrong ones is seen."""

DEADLINE = 55.0
_BEAT = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft demo`."""
    parser.add_argument(
        "--seconds", type=float, default=4.0, metavar="S", help="length of each of the four acts (default 4)"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON as well")


@dataclass(slots=True)
class Seen:
    """What the callers have seen."""

    results: list[int] = field(default_factory=list)
    unknown: int = 0
    errors: list[str] = field(default_factory=list)
    away: dict[int, str] = field(default_factory=dict)
    """Replica -> why it does not answer just now, where that is part of the play."""


class Failed(Exception):
    """The demonstration did not show what it should."""


def run(args: argparse.Namespace) -> int:
    """Play it and check it; 0 if everything was as it should be. Raises ConfigError."""
    if not 1 <= args.seconds <= 10:
        raise ConfigError(f"--seconds {args.seconds:g} must lie between 1 and 10")
    logging.getLogger("pbft").addHandler(logging.NullHandler())  # a replica that is killed is expected here
    folder = Path(tempfile.mkdtemp(prefix="pbft-demo-"))
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(130))
    try:
        config = write_cluster(
            folder / "cluster", app="counter", base_port=_free_ports(8), clients=("demo",), tunables=TUNABLES
        )
        with Children(config, adversaries={ENEMY: "lying-replies"}) as children:
            return trio.run(_play, config, children, args.seconds, args.json)
    except (Failed, BaseExceptionGroup) as error:
        failed = first_of(error, (Failed,))
        if failed is None:
            raise
        print(f"\ndemo failed: {failed}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on."""
    for base in range(17000, 60000, 50):
        taken = 0
        for port in range(base, base + count):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    taken += 1
        if not taken:
            return base
    raise Failed("no free ports on 127.0.0.1")


async def _play(config: ClusterConfig, children: Children, seconds: float, as_json: bool) -> int:
    begun = time.monotonic()
    seen = Seen()
    with trio.move_on_after(DEADLINE) as scope:
        _say("starting four replicas, as processes, each with its log on disk")
        children.start_all()
        if await trio.to_thread.run_sync(children.wait_ready, 20.0) is None:
            dead = "; ".join(children.end_of(i, code) for i, code in children.dead().items())
            raise Failed(f"the replicas did not start; {dead}")
        async with Client.connect(config, name="demo") as client:
            await client.wait_connected(4)
            summary = await _acts(config, children, client, seen, seconds)
    if scope.cancelled_caught:
        raise Failed(f"not finished after {DEADLINE:.0f} s")
    summary["seconds"] = round(time.monotonic() - begun, 1)
    _report(summary)
    if as_json:
        print(json.dumps(summary))
    return 0


async def _acts(
    config: ClusterConfig, children: Children, client: Client, seen: Seen, seconds: float
) -> dict[str, object]:
    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(_count, client, seen)
        nursery.start_soon(_watch, config, seen)
        _say(f"{CALLERS} callers count; replica {ENEMY}, the primary, lies in every reply, and is outvoted")
        await trio.sleep(seconds)
        _say(f"replica {ENEMY} now also proposes one batch to some and another to others: nothing is agreed,\n"
             "  the backups suspect it, leave its view, and the next primary takes over;\n"
             "  and it signs two different states for one checkpoint, which can be proved")  # fmt: skip
        children.adversaries[ENEMY] = "lying-replies+equivocating-primary+signed-false-checkpoints"
        seen.away[ENEMY] = "restarts with worse intent"
        await trio.to_thread.run_sync(children.kill, ENEMY)
        children.start(ENEMY)
        await _view_above(config, 0)
        await trio.sleep(seconds)
        _say(f"kill -9 replica {VICTIM}, the primary now: with the enemy, that is one more than may fail at once -\n"
             "  but an enemy that votes is still a vote; the next one takes over")  # fmt: skip
        seen.away[VICTIM] = "killed"
        await trio.to_thread.run_sync(children.kill, VICTIM)
        missed_from = await _executed(config, LAST)
        await _view_above(config, 1)
        await trio.sleep(seconds)
        _say(f"replica {VICTIM} comes back with its disk and catches up")
        returned = time.monotonic()
        seen.away[VICTIM] = "starting"
        children.start(VICTIM)
        target = await _executed(config, LAST)
        while await _executed(config, VICTIM) < target:
            await trio.sleep(0.05)
        catch_up = time.monotonic() - returned
        _say(f"caught up with {target - missed_from} batches {catch_up:.1f} s after its start")
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    total = int(await client.query(get(), timeout=10.0))
    statistics = client.statistics()
    outvoted = {r.replica: r.outvoted for r in statistics.replicas if r.outvoted}
    evidence = await trio.to_thread.run_sync(_evidence, config)
    return _check(seen, total, outvoted, await _settled(config), catch_up, evidence)


async def _count(client: Client, seen: Seen) -> None:
    while True:
        try:
            seen.results.append(int(await client.invoke(inc(), timeout=20.0)))
        except ClientError as error:
            seen.unknown += 1
            seen.errors.append(str(error))
        except trio.Cancelled:
            seen.unknown += 1
            raise


async def _watch(config: ClusterConfig, seen: Seen) -> None:
    before, at = 0, time.monotonic()
    while True:
        await trio.sleep(_BEAT)
        rows = await trio.to_thread.run_sync(ask_all, config, 0.3)
        now, count = time.monotonic(), len(seen.results)
        parts = [f"{(count - before) / (now - at):8,.0f} ops/s"]
        before, at = count, now
        for row in rows:
            mark = "lies" if row.get("adversary") else "    "
            number = f"{row['last_executed']:>7,}" if row["reachable"] else paint("   down", "red")
            parts.append(f"{row['id']}:{number} {paint(mark, 'yellow')}")
        parts += absences(rows, seen.away)
        print("  " + "  ".join(parts), flush=True)


def absences(rows: Sequence[Mapping[str, object]], away: Mapping[int, str]) -> list[str]:
    """Why replicas are down, for the end of a line: those that the play took away, and surprises."""
    down = [int(str(row["id"])) for row in rows if not row["reachable"]]
    return [f"({replica} {away.get(replica, 'does not answer')})" for replica in down]


async def _view_above(config: ClusterConfig, view: int) -> None:
    """Until a replica that nothing happens to is active in a later view."""
    while True:
        row = (await trio.to_thread.run_sync(ask_all, config, 0.5))[LAST]
        now = row["view"]
        if isinstance(now, int) and now > view and not row["in_view_change"]:
            _say(f"view {now} has begun, its primary is replica {row['primary']}")
            return
        await trio.sleep(0.05)


async def _executed(config: ClusterConfig, replica: int) -> int:
    rows = await trio.to_thread.run_sync(ask_all, config, 0.5)
    value = rows[replica]["last_executed"]
    return value if isinstance(value, int) else -1


async def _settled(config: ClusterConfig) -> list[dict[str, object]]:
    """Statuses once all have executed the same."""
    for _ in range(100):
        rows = await trio.to_thread.run_sync(ask_all, config, 0.5)
        if len({row["last_executed"] for row in rows}) == 1:
            return rows
        await trio.sleep(0.1)
    raise Failed("the replicas do not come to the same number")


def _evidence(config: ClusterConfig) -> list[str]:
    """What the files that the correct replicas have kept prove, each verified anew."""
    files = [f for i in range(4) if i != ENEMY for f in (config.data_directory(i) / "evidence").glob("*")]
    return [explain(decode_proof(f.read_bytes())) for f in sorted(files)]


def _check(
    seen: Seen,
    total: int,
    outvoted: dict[int, int],
    rows: list[dict[str, object]],
    catch_up: float,
    evidence: list[str],
) -> dict[str, object]:
    acknowledged = len(seen.results)
    wrong = acknowledged - len(set(seen.results)) + sum(not 1 <= r <= total for r in seen.results)
    if not acknowledged <= total <= acknowledged + seen.unknown:
        raise Failed(f"the counter stands at {total}, with {acknowledged} acknowledged and {seen.unknown} unknown")
    if seen.errors:
        raise Failed(f"{len(seen.errors)} calls failed, the first with: {seen.errors[0]}")
    if list(outvoted) != [ENEMY]:
        raise Failed(f"the enemy is replica {ENEMY}, outvoted were {outvoted}")
    if wrong:
        raise Failed(f"{wrong} wrong results were believed")
    stable = {(row["stable_checkpoint"], row["stable_digest"]) for row in rows}
    newest = max(number for number, _ in stable if isinstance(number, int))
    if len({digest for number, digest in stable if number == newest}) != 1:
        raise Failed(f"different states at checkpoint {newest}")
    if not evidence or not all(f"replica {ENEMY} signed" in text for text in evidence):
        raise Failed(f"the enemy signed what nobody correct signs, and the evidence says: {evidence}")
    return {
        "operations": acknowledged,
        "counter": total,
        "in_flight_at_the_end": seen.unknown,
        "view_changes": max(row["view"] if isinstance(row["view"], int) else 0 for row in rows),
        "evidence_found": len(evidence),
        "evidence": evidence[0],
        "liar": ENEMY,
        "lies_outvoted": outvoted[ENEMY],
        "catch_up_s": round(catch_up, 2),
        "wrong_results": wrong,
    }


def _say(text: str) -> None:
    print(f"{paint('*', 'green')} {text}", flush=True)


def _report(summary: dict[str, object]) -> None:
    print(f"""
{paint("checked", "bold")}
  operations acknowledged: {summary["operations"]:,}; the counter stands at {summary["counter"]:,} \
({summary["in_flight_at_the_end"]} were in flight at the end)
  replica {ENEMY} lied {summary["lies_outvoted"]:,} times, was outvoted each time, and is named
  it was replaced as primary; evidence found: {summary["evidence_found"]} files that anybody can verify, the first says:
    {summary["evidence"]}
  replica {VICTIM} was killed and replaced as primary, and had caught up {summary["catch_up_s"]} s after its start
  all replicas have executed the same batches; view changes: {summary["view_changes"]}
  {paint(f"wrong results: {summary['wrong_results']}", "green")}
  {summary["seconds"]} s""")
