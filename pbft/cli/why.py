"""`pbft why CLUSTER.toml`: what a cluster is waiting for, in sentences: whether it serves requests all the same, who is
missing, which timer runs, which request has waited longest."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pbft.cli.output import CLUSTER_HELP, counted, listed
from pbft.cli.status import LONG, ask_all, seconds
from pbft.config import Quorums
from pbft.config_file import ClusterConfig

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft why`."""
    parser.add_argument("cluster", metavar="CLUSTER.toml", help=CLUSTER_HELP)


def run(args: argparse.Namespace) -> int:
    """0 if it waits for nothing, 1 otherwise."""
    config = ClusterConfig.load(args.cluster)
    rows = ask_all(config, 1.0)
    addresses = {r.id: str(r.admin) for r in config.replicas}
    found = reasons(rows, config.group.quorums, addresses)
    print("\n".join(found) if found else calm(rows))
    return 1 if found else 0


def calm(rows: Sequence[Row]) -> str:
    """What to say when nothing is awaited."""
    executed = max(_plain(r, len(rows))["last_executed"] for r in rows)
    return (
        f"It waits for nothing: all {len(rows)} replicas vote in view {rows[0]['view']} and have executed {executed}."
    )


def reasons(rows: Sequence[Row], quorums: Quorums, addresses: dict[int, str]) -> list[str]:
    """Sentences, the most fundamental ones first; none if all is well."""
    found = _reasons(rows, quorums, addresses)
    return [_service([_plain(r, quorums.n) for r in rows], quorums), *found] if found else []


def _service(rows: Sequence[Row], quorums: Quorums) -> str:
    """Whether requests are served with what there is, and what more it can bear."""
    if not any(r["reachable"] for r in rows):
        return "Nothing answers: if it is not meant to be down, start it by `pbft up`."
    if gone := end_of_service(rows, quorums):
        return f"This cluster cannot serve again: {gone}"
    voting = [r for r in rows if _votes(r)]
    missing = quorums.strong - len(voting)
    if missing > 0:
        return (
            f"Only {len(voting)} of {quorums.n} replicas can vote and {quorums.strong} are needed: nothing is ordered "
            f"until {missing} more {'is' if missing == 1 else 'are'} back."
        )
    working = [r for r in voting if r["connected_peers"] >= quorums.strong - 1]
    spare = len(working) - quorums.strong
    if spare < 0:
        return (
            f"{len(voting)} of {quorums.n} replicas can vote, but only {len(working)} of them "
            f"{'is' if len(working) == 1 else 'are'} connected to {quorums.strong - 1} others: nothing is ordered "
            "until links are back."
        )
    bears = f"{counted(spare, 'more failure')} would not stop it" if spare else "one more failure would stop it"
    views = Counter(r["view"] for r in working if not r["in_view_change"])
    view, active = max(views.items(), key=lambda pair: pair[1], default=(0, 0))
    if active < quorums.strong:
        return f"Enough replicas vote, but requests wait until {quorums.strong} of them are in one view; {bears}."
    primary = quorums.primary(view)
    if primary not in [r["id"] for r in working]:
        return f"Requests wait until the primary of view {view}, replica {primary}, is replaced; {bears}."
    if any((r["request_waited_s"] or 0) > LONG for r in working):
        return f"Enough replicas vote, but requests wait; {bears}."
    return f"It serves requests; {bears}."


def end_of_service(rows: Sequence[Mapping[str, object]], quorums: Quorums) -> str:
    """What has happened where more replicas say that they have lost their pasts than a recovery can bear; else empty.

    A recovery is ordered by a quorum of those that have theirs (rule 1.7), so without one there is none.
    """
    lost = [row["id"] for row in rows if row.get("lost") is True]
    if len(lost) <= quorums.n - quorums.strong:
        return ""
    return (
        f"{counted(len(lost), 'replica')} of {quorums.n} ({listed(lost)}) have lost what they had voted, and what was "
        "acknowledged may be lost with it, so nothing is ordered rather than something forgotten. Stop it. If what "
        "held the newest data is only not mounted, mount it, and start again; else make a new cluster: of a "
        "backup by `pbft restore`, of what is still on the disk of one by `pbft backup --as-is` and `pbft restore`, or "
        'an empty one by `pbft init` (docs/operations.md, "Start tokens").'
    )


def _votes(row: Row) -> bool:
    """Whether it is there and votes."""
    return bool(row["reachable"] and not row["halted"] and not row["behind"])


def _fetches(transfer: Row | None) -> str:
    """Where the state stands that it gets from others."""
    if transfer is None:
        return "It waits for a state that a quorum has signed."
    sources = listed(transfer["sources"]) if transfer["sources"] else "nobody yet"
    return (
        f"It fetches state {transfer['number']} from {sources}: {transfer['bytes'] / 1e6:.1f} MB are here, "
        f"{counted(transfer['waiting'], 'more piece')} known to be missing."
    )


def _reasons(rows: Sequence[Row], quorums: Quorums, addresses: dict[int, str]) -> list[str]:
    rows = [_plain(r, quorums.n) for r in rows]
    up = [r for r in rows if r["reachable"]]
    found = [f"Replica {r['id']} does not answer at {addresses[r['id']]}." for r in rows if not r["reachable"]]
    found += [f"Replica {r['id']} does not vote: {r['halted']}." for r in up if r["halted"]]
    found += [
        f"Replica {r['id']} does not vote: it has executed {r['last_executed']}, and the others no longer keep what "
        f"comes next. {_fetches(r['transfer'])}"
        for r in up
        if r["behind"] and not r["halted"]
    ]
    voting = [r for r in up if not r["halted"] and not r["behind"]]
    split = Counter(r["disagreement"] for r in up if r["disagreement"])
    if split and (most := split.most_common(1)[0])[1] >= quorums.weak:
        found.append(
            f"The replicas have signed different states at checkpoint {most[0]}. No quorum can agree on one, so "
            "requests will wait: the application is not deterministic. `pbft apps check` runs it under several hash "
            "seeds."
        )
    found += _lonely(up, quorums)
    found += _views(voting, quorums)
    found += _requests(voting, quorums)
    return found + _laggards(up)


def _plain(row: Row, n: int) -> Row:
    """A status in which every field has its type: a replica may say anything."""

    def whole(name: str) -> int:
        value = row.get(name)
        return value if type(value) is int else 0

    def ids(name: str) -> list[int]:
        value = row.get(name)
        return [i for i in value if type(i) is int and 0 <= i < n] if isinstance(value, list) else []

    if isinstance(transfer := row.get("transfer"), dict):
        transfer = _plain_transfer(transfer, n)
    numbers = ("view", "primary", "promised", "last_executed", "connected_peers", "missing_bodies")
    return {
        "id": whole("id"),
        "reachable": row.get("reachable") is True,
        "halted": str(row.get("halted") or ""),
        "disagreement": str(row.get("disagreement") or ""),
        "lost": row.get("lost") is True,
        "behind": row.get("behind") is True,
        "in_view_change": row.get("in_view_change") is True,
        **{name: whole(name) for name in numbers},
        **{name: seconds(row.get(name)) for name in ("request_waited_s", "timer_s")},
        **{name: ids(name) for name in ("view_changes", "suspects")},
        "transfer": transfer if isinstance(transfer, dict) else None,
    }


def _plain_transfer(transfer: Row, n: int) -> Row:
    found: Row = {name: v if type(v := transfer.get(name)) is int else 0 for name in ("number", "bytes", "waiting")}
    sources = transfer.get("sources")
    return found | {"sources": [i for i in sources if type(i) is int and 0 <= i < n] if type(sources) is list else []}


def _lonely(up: Sequence[Row], quorums: Quorums) -> list[str]:
    return [
        f"Replica {r['id']} is connected to {counted(r['connected_peers'], 'other')} and needs {quorums.strong - 1}."
        for r in up
        if r["connected_peers"] < quorums.strong - 1
    ]


def _views(voting: Sequence[Row], quorums: Quorums) -> list[str]:
    found = []
    for view in sorted({r["promised"] for r in voting if r["in_view_change"]}):
        waiting = [r["id"] for r in voting if r["in_view_change"] and r["promised"] == view]
        primary = quorums.primary(view)
        text = f"{_replicas(waiting)} left for view {view} and wait{_s(waiting)} for the NEW-VIEW of replica {primary}"
        there = next((r for r in voting if r["id"] == primary), None)
        if there is None:
            found.append(f"{text}, which cannot vote; the timer will move them on.")
            continue
        held = there["view_changes"]
        if len(held) < quorums.strong:
            missing = sorted(set(range(quorums.n)) - set(held))
            text += f", which holds {len(held)} of {quorums.strong} VIEW-CHANGEs (none of {listed(missing)})"
        found.append(text + ".")
    found += [
        f"Replica {r['id']} waits for {counted(r['missing_bodies'], 'batch', 'batches')} that view {r['view']} begins "
        "with."
        for r in voting
        if r["missing_bodies"]
    ]
    return found


def _requests(voting: Sequence[Row], quorums: Quorums) -> list[str]:
    found = []
    waits = [(r["request_waited_s"], r) for r in voting if (r["request_waited_s"] or 0) > LONG]
    if waits:
        seconds, row = max(waits, key=lambda pair: pair[0])
        text = f"The oldest request has waited {seconds:.1f} s at replica {row['id']} for primary {row['primary']}"
        if row["timer_s"]:
            text += f"; the view timer there runs out in {row['timer_s']:.1f} s"
        found.append(text + ".")
    for view in sorted({r["promised"] for r in voting}):
        suspects = sorted({i for r in voting if r["promised"] == view for i in r["suspects"]})
        if suspects:
            found.append(
                f"{_replicas(suspects)} suspect{_s(suspects)} the primary of view {view}, replica "
                f"{quorums.primary(view)}; {quorums.weak} are needed to leave it."
            )
    return found


def _laggards(up: Sequence[Row]) -> list[str]:
    executed = sorted((r["last_executed"] for r in up), reverse=True)
    if not executed:
        return []
    views = sorted((r["view"] for r in up), reverse=True)
    found = [
        f"Replica {r['id']} is {executed[0] - r['last_executed']} batches behind and catches up."
        for r in up
        if executed[0] - r["last_executed"] > 8 and not r["behind"]
    ]
    found += [
        f"Replica {r['id']} is still in view {r['view']}, others in {views[0]}." for r in up if r["view"] < views[0]
    ]
    return found


def _replicas(ids: Sequence[int]) -> str:
    return f"Replica {ids[0]}" if len(ids) == 1 else f"Replicas {listed(ids)}"


def _s(ids: Sequence[int]) -> str:
    return "s" if len(ids) == 1 else ""
