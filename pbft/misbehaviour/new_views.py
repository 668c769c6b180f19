"""What a new primary can do wrong with its NEW-VIEW: false, late, to some only, two of them, none."""

from __future__ import annotations

from pbft.messages import Message, NewView, ViewChange
from pbft.misbehaviour.base import Captive, Misbehaviour, Outgoing, Sent, forget_oldest
from pbft.misbehaviour.votes import Withholding

_VIEWS = 64
WRONGS = (
    "too-few",
    "duplicate",
    "other-view",
    "old",
    "inconsistent",
    "bad-seal",
    "stolen",
    "unattached",
    "not-primary",
)


class SilentNewView(Withholding):
    """Never begins a view that it leads."""

    name = "silent-new-view"
    withheld = (NewView,)


class OwnNewViews(Misbehaviour):
    """Bends its own NEW-VIEWs, sealed again; the same lie for one view and receiver each time."""

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._made: dict[tuple[int, int], Outgoing] = {}

    def bent(self, to: int, message: NewView) -> list[NewView]:
        """What goes to one replica instead."""
        raise NotImplementedError

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Other messages pass."""
        if not isinstance(message, NewView) or message.sender != self.me:
            return [Sent(to, message)]
        if (message.view, to) not in self._made:
            self._made[message.view, to] = [Sent(to, m) for m in self.bent(to, message)]
            forget_oldest(self._made, _VIEWS)
        return self._made[message.view, to]

    def naming(self, message: NewView, found: list[ViewChange]) -> NewView:
        """A sealed NEW-VIEW from these VIEW-CHANGEs."""
        named = tuple((m.sender, m.digest) for m in found)
        return self.captive.sealed(message._replace(named=named, view_changes=tuple(found)))


class WrongNewView(OwnNewViews):
    """Signs NEW-VIEWs from which nothing follows: too few, duplicate, foreign, inconsistent or forged VIEW-CHANGEs."""

    name = "wrong-new-view"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._kinds: dict[int, str] = {}

    def bent(self, to: int, message: NewView) -> list[NewView]:
        """One kind of mistake per view."""
        kind = self._kinds.setdefault(message.view, self.random.choice(WRONGS))
        forget_oldest(self._kinds, _VIEWS)
        return [self.wrong(kind, message)]

    def wrong(self, kind: str, message: NewView) -> NewView:
        """A NEW-VIEW with this mistake."""
        found = list(message.view_changes)
        own = next((i for i, m in enumerate(found) if m.sender == self.me), 0)
        mine = self.captive.sealed(found[own]._replace(sender=self.me, prepared=(), preprepared=()))
        if kind == "too-few":
            return self.naming(message, found[: self.captive.quorums.strong - 1])
        if kind == "unattached":
            wrong = tuple((sender, self.random.randbytes(32)) for sender, _ in message.named)
            return self.captive.sealed(message._replace(named=wrong))
        if kind == "not-primary":
            return self.captive.sealed(message._replace(view=message.view + 1))
        if kind == "duplicate":  # enough of them to forget all that anybody prepared
            found = [mine] * len(found)
        elif kind == "old":
            found = [self._oldest(m) for m in found]
        elif kind == "other-view":
            found[own] = self.captive.sealed(mine._replace(view=mine.view + 1))
        elif kind == "inconsistent":
            number = mine.low + 1
            p = ((number, self.random.randbytes(32), mine.view), (number, self.random.randbytes(32), 0))
            found[own] = self.captive.sealed(mine._replace(prepared=p))
        elif kind == "bad-seal":
            found[own] = mine._replace(seal=mine.seal[:-1] + bytes([mine.seal[-1] ^ 1]))
        else:  # what others said, changed
            found = [m if m.sender == self.me else m._replace(prepared=(), preprepared=()) for m in found]
            other = (own + 1) % len(found)
            if found[other] == message.view_changes[other]:
                found[other] = found[other]._replace(incarnation=1)
        return self.naming(message, found)

    def _oldest(self, message: ViewChange) -> ViewChange:
        """What its sender signed for another view."""
        if message.sender == self.me:
            return self.captive.sealed(message._replace(view=message.view + 1))
        for known in self.captive.signed:
            if isinstance(known, ViewChange) and known.sender == message.sender and known.view != message.view:
                return known
        return message


class PartialNewView(OwnNewViews):
    """Tells only some replicas that its view begins; whom is drawn anew for each view."""

    name = "partial-new-view"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._told: dict[int, frozenset[int]] = {}

    def bent(self, to: int, message: NewView) -> list[NewView]:
        """At least one and not all."""
        if message.view not in self._told:
            backups = self.captive.backups()
            self._told[message.view] = frozenset(backups[: self.random.randint(1, len(backups) - 1)])
            forget_oldest(self._told, _VIEWS)
        return [message] if to in self._told[message.view] else []


class TwoNewViews(OwnNewViews):
    """Begins its view from one set of VIEW-CHANGEs for some replicas and from another set for the rest."""

    name = "two-new-views"

    def bent(self, to: int, message: NewView) -> list[NewView]:
        """Another set: one that came later, one less, or an own VIEW-CHANGE that forgets everything."""
        if self.random.random() < 0.5:
            return [message]
        strong = self.captive.quorums.strong
        found = {m.sender: m for m in message.view_changes}
        late = [m for s, m in sorted(self.captive.view_changes.items()) if m.view == message.view and s not in found]
        found |= {m.sender: m for m in late[:1]}
        others = [s for s in found if s != self.me]
        if len(found) > strong and self.random.random() < 0.7:
            del found[self.random.choice(others)]
        elif self.me in found:
            found[self.me] = self.captive.sealed(found[self.me]._replace(prepared=(), preprepared=()))
        other = self.naming(message, [m for _, m in sorted(found.items())])
        return [other, message] if self.random.random() < 0.2 else [other]


class LateNewView(Misbehaviour):
    """Holds its NEW-VIEWs back until the others are about to leave, or have left."""

    name = "late-new-view"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Each replica gets it at another time."""
        if not isinstance(message, NewView) or message.sender != self.me:
            return [Sent(to, message)]
        return [Sent(to, message, self.group.tunables.view_timeout / 1000 * self.random.uniform(0.5, 3.0))]
