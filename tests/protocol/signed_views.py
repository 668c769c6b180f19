"""VIEW-CHANGEs, NEW-VIEWs and proposals as a test wants them, with good seals: what a liar can make."""

from __future__ import annotations

from typing import TypeVar

from cluster import Cluster, Member, sealed
from naive_decision import view_change as unsealed

from pbft.batch import ClientRequest, encode_batch
from pbft.messages import NewView, PrePrepare, Request, Suspect, ViewChange

P = dict[int, tuple[bytes, int]]
Q = dict[tuple[int, bytes], int]


Signed = TypeVar("Signed", ViewChange, NewView)


def sealed_by_sender(c: Cluster, message: Signed) -> Signed:
    return message._replace(seal=sealed(message.sender, message.signed_body(c.group.cluster, 0)))


def view_change(c: Cluster, sender: int, view: int, p: P | None = None, q: Q | None = None) -> ViewChange:
    """VIEW-CHANGE at h = 0 with P[n] = (d, v) and Q[n, d] = v."""
    return sealed_by_sender(c, unsealed(sender, view, p, q))


def new_view(c: Cluster, view: int, *named: ViewChange, sender: int | None = None) -> NewView:
    """NEW-VIEW of primary(view), or of `sender`, that names and brings these."""
    names = tuple((m.sender, m.digest) for m in named)
    primary = view % len(c.members) if sender is None else sender
    return sealed_by_sender(c, NewView(primary, 0, view, names, b"", named))


def proposal(c: Cluster, number: int, *requests: Request, view: int = 0, time: int | None = None) -> PrePrepare:
    """PRE-PREPARE of a batch with these requests."""
    batch = encode_batch(c.wall if time is None else time, b"s" * 16, [ClientRequest(*r) for r in requests])
    return PrePrepare(view, number, batch.digest, batch.encoded)


def group(n: int = 4, **tunables: int) -> Cluster:
    """A group in view 0 with Alice's session open."""
    c = Cluster(n, **tunables)
    c.open()
    return c


def silent(c: Cluster, *senders: int, view: int = 1) -> list[ViewChange]:
    """VIEW-CHANGEs of replicas that have seen nothing."""
    return [view_change(c, i, view) for i in senders]


def push(m: Member, views: int) -> None:
    """f+1 others suspect each view that it comes to: it leaves `views` of them, one after the other."""
    others = [i for i in range(len(m.cluster.members)) if i != m.me][: m.cluster.group.quorums.weak]
    for _ in range(views):
        for i in others:
            m.give(i, Suspect(m.promised))


def executed_once(c: Cluster, *requests: Request) -> bool:
    """Everybody who is up has executed each of them once, in one order."""
    up = c.up
    same = {tuple(m.executed) for m in up} == {tuple(up[0].executed)}
    return same and all(m.times(r) == 1 for m in up for r in requests)
