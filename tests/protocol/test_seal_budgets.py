"""Signatures take long to verify: how many of one peer's are looked at has a bound, and a correct peer keeps to it."""

from __future__ import annotations

import pytest
from cluster import Authentic, Cluster, sealed
from signed_views import group, sealed_by_sender

from pbft.messages import Checkpoint, Message, NewView, Sealed, Stable, ViewChange
from pbft.protocol.decision import GENESIS

LIAR = 3
MOST = 8 * 4 + 16


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Sealed]:
    """Every message whose seal is looked at from now on."""
    looked: list[Sealed] = []
    original = Authentic.seal_is_authentic

    def counting(self: Authentic, message: Sealed) -> bool:
        looked.append(message)
        return original(self, message)

    monkeypatch.setattr(Authentic, "seal_is_authentic", counting)
    return looked


def checkpoint(c: Cluster, incarnation: int, number: int = 4) -> Checkpoint:
    message = Checkpoint(LIAR, incarnation, number, bytes(32), 1, 1, (), b"")
    return message._replace(seal=sealed(LIAR, message.signed_body(c.group.cluster, 0)))


def new_view(c: Cluster, round_: int) -> NewView:
    """From nothing but the liar itself, in incarnations that were never seen."""
    named = tuple(
        sealed_by_sender(c, ViewChange(LIAR, 4 * round_ + i, 7, 0, (GENESIS,), (), (), b"")) for i in range(4)
    )
    message = NewView(LIAR, round_, 7, tuple((m.sender, m.digest) for m in named), b"", named)
    return message._replace(seal=sealed(LIAR, message.signed_body(c.group.cluster, 0)))


def flood(c: Cluster, kind: str, i: int) -> Message:
    match kind:
        case "new-view":
            return new_view(c, i)
        case "stable":
            return Stable(tuple(checkpoint(c, 4 * i + j) for j in range(4)))
        case "rising":
            return checkpoint(c, i)
        case "forged":
            return checkpoint(c, 0)._replace(digest=bytes([i % 256]) * 32)
        case _:
            return checkpoint(c, 0, 4000 + 4 * (i % 2))


@pytest.mark.parametrize("kind", ["new-view", "stable", "rising", "forged", "far"])
def test_one_liar_has_so_many_seals_looked_at_and_no_more(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an interval, of whatever it signs; afterwards it is heard again."""
    c = group(4, view_timeout=600)
    looked = counted(monkeypatch)
    for i in range(300):
        c.members[1].give(LIAR, flood(c, kind, i))
    assert len(looked) <= MOST + 1, "the first one told something new"
    assert c.members[1].refused(LIAR, "too-often") or kind == "stable"
    c.wait(0.3)
    before = len(looked)
    c.members[1].give(LIAR, checkpoint(c, 900, 8))
    assert len(looked) == before + 1


def test_what_names_one_replica_four_times_is_no_certificate_and_costs_no_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a NEW-VIEW, but for its own: that its primary signed it is evidence."""
    c = group(4, view_timeout=600)
    looked = counted(monkeypatch)
    assert c.members[1].give(LIAR, flood(c, "stable", 1)) == "not-certified" and not looked
    c.members[1].give(LIAR, new_view(c, 1))
    assert len(looked) == 1
    assert [e.kind for e in c.members[1].evidence] == ["invalid-new-view"]


def test_an_honest_peer_is_never_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint for every fourth batch, hundreds in an interval, and view changes between them."""
    c = group(4, view_timeout=600)
    for _ in range(6):
        for _ in range(40):
            c.order(4)
        c.suspect_all(0, 1, 2)
        c.wait(1)
    assert c.view >= 6
    assert not any(m.refused(peer, "too-often") for m in c.members for peer in range(4))
