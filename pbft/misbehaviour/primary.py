"""What a faulty primary proposes: two batches, to some only, late, nothing, without one client, at wrong times."""

from __future__ import annotations

from typing import NamedTuple

from pbft.batch import NULL_BATCH, Batch, ClientRequest, decode_batch, encode_batch
from pbft.codec import CodecError
from pbft.messages import Commit, Message, PrePrepare, Request, decode
from pbft.misbehaviour.base import Captive, Misbehaviour, Outgoing, Sent, forget_oldest

_PLANS = 256
_HOUR = 3600 * 1_000_000
_TIME_MAX = (1 << 64) - 1


class Plan(NamedTuple):
    """What a primary proposes at one number of one view; made once, so that it can be sent again."""

    batch: Batch
    to: frozenset[int]
    other: Batch | None
    """What everybody outside `to` gets; None: nothing."""
    votes: bool = True
    """Whether it sends COMMIT for what it told."""


class Proposing(Misbehaviour):
    """Bends proposals, and votes to each replica for what it was told."""

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._plans: dict[tuple[int, int], Plan] = {}

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """What is proposed to whom instead of `batch`."""
        raise NotImplementedError

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """A bent PRE-PREPARE comes with the COMMIT for it: who helps a lie along does not wait for others."""
        if isinstance(message, PrePrepare):
            planned = self._planned(message)
            told = planned.batch if to in planned.to else planned.other
            if told is None:
                return []
            if told.encoded == message.batch:
                return [Sent(to, message)]
            view, number = message.view, message.number
            sent = [Sent(to, PrePrepare(view, number, told.digest, told.encoded))]
            return [*sent, Sent(to, Commit(view, number, told.digest))] if planned.votes else sent
        if isinstance(message, Commit) and (known := self._plans.get((message.view, message.number))) is not None:
            told = known.batch if to in known.to else known.other
            return [Sent(to, message._replace(digest=told.digest))] if told is not None and known.votes else []
        return [Sent(to, message)]

    def _planned(self, message: PrePrepare) -> Plan:
        key = (message.view, message.number)
        if key not in self._plans:
            self._plans[key] = self.plan(message, decode_batch(message.batch))
            forget_oldest(self._plans, _PLANS)
        return self._plans[key]

    def everybody(self, batch: Batch) -> Plan:
        """One proposal for all."""
        return Plan(batch, frozenset(self.captive.others), None)

    def earlier(self) -> list[Batch]:
        """The last batches that other primaries proposed."""
        return [decode_batch(p.batch) for p in list(self.captive.proposals)[-8:]]

    def alternative(self, batch: Batch) -> Batch:
        """Another valid batch of the same requests: other order, other seed, or other time."""
        if batch.is_null:
            return batch
        kind = self.random.randrange(3)
        requests = batch.requests[::-1] if kind == 0 else batch.requests
        seed = bytes(b ^ 0xFF for b in batch.seed) if kind < 2 else batch.seed
        return encode_batch(batch.time ^ (kind == 2), seed, requests)


class EquivocatingPrimary(Proposing):
    """Proposes one batch to one half of the backups and another one to the other half."""

    name = "equivocating-primary"

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """Halves are drawn anew for each number."""
        backups = self.captive.backups()
        half = frozenset(backups[: len(backups) // 2])
        return Plan(batch, half, self.alternative(batch), self.random.random() < 0.5)


class NarrowEquivocation(Proposing):
    """Proposes one batch to just the q-1 backups that can commit it with it, and another one, or none, to the rest."""

    name = "equivocating-narrowly"

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """Who is left out is drawn anew for each number."""
        chosen = frozenset(self.captive.backups()[: self.captive.quorums.strong - 1])
        other = self.random.choice((self.alternative(batch), None))
        return Plan(batch, chosen, other, self.random.random() < 0.5)


class PartialMulticast(Proposing):
    """Sends its PRE-PREPAREs to q-1 backups only, always the same ones."""

    name = "partial-multicast"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._fed = frozenset(captive.backups()[: captive.quorums.strong - 1])

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """The rest is starved."""
        return Plan(batch, self._fed, None)


class FutureTime(Proposing):
    """Proposes times far ahead, or in the past, or just about acceptable."""

    name = "future-time"

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """Now and then the right one."""
        if batch.is_null:
            return self.everybody(batch)
        limit = self.group.tunables.clock_skew_max * 1000
        time = self.random.choice((0, 1, batch.time + limit, batch.time + _HOUR, _TIME_MAX, batch.time))
        return self.everybody(encode_batch(min(time, _TIME_MAX), batch.seed, batch.requests))


class NullPrimary(Proposing):
    """Looks alive by ordering nothing but NULLs and batches that were ordered before."""

    name = "null-primary"

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """Stale ones are proposals that it has heard from other primaries."""
        return self.everybody(self.random.choice((NULL_BATCH, *self.earlier())))


class DoublingPrimary(Proposing):
    """Proposes batches in which requests stand twice, or stood in an earlier batch."""

    name = "doubling-primary"

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """Its own requests again, or those of a batch that it has seen."""
        if batch.is_null or self.random.random() < 0.3:
            return self.everybody(batch)
        again = self.random.choice((batch, *self.earlier())).requests
        return self.everybody(encode_batch(batch.time, batch.seed, (*batch.requests, *again)))


class CorruptAuthenticators(Proposing):
    """Spoils what clients authenticated their requests with, for some backups or for all."""

    name = "corrupt-authenticators"

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """The digest of a batch does not cover authenticators, so both are the same proposal."""
        if batch.is_null:
            return self.everybody(batch)
        spoilt = encode_batch(batch.time, batch.seed, [_spoilt(r) for r in batch.requests])
        backups = self.captive.backups()
        return Plan(spoilt, frozenset(backups[: self.random.randint(1, len(backups))]), batch)


class Crowding(Proposing):
    """Proposes other batches at the same numbers in each of its views, to f backups, so that none of them prepares: the
    VIEW-CHANGEs of the others must name more and more."""

    name = "crowding"

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """The same requests, or old ones, under another time: another digest."""
        requests = batch.requests or self.random.choice((batch, *self.earlier())).requests
        told = encode_batch(max(1, batch.time - message.view), batch.seed, requests) if requests else batch
        return Plan(told, frozenset(self.captive.backups()[: self.captive.quorums.f]), None)

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Several numbers at once."""
        sent = super().outgoing(to, message)
        for who, proposal in [(s.to, s.message) for s in sent if isinstance(s.message, PrePrepare)]:
            sent += [Sent(who, proposal._replace(number=proposal.number + ahead)) for ahead in range(1, 4)]
        return sent


class LeavingGaps(Misbehaviour):
    """Proposes a few numbers too high, so that lower ones stay empty."""

    name = "leaving-gaps"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Another gap in each view; COMMIT comes along."""
        if not isinstance(message, PrePrepare):
            return [Sent(to, message)]
        gap = 1 + message.view // self.captive.quorums.n % 3
        moved = message._replace(number=message.number + gap)
        return [Sent(to, moved), Sent(to, Commit(moved.view, moved.number, moved.digest))]


class SlowPrimary(Misbehaviour):
    """Sends its PRE-PREPAREs just before the others' timers run out."""

    name = "slow-primary"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Everything else is prompt."""
        late = 0.9 * self.group.tunables.view_timeout / 1000
        return [Sent(to, message, late if isinstance(message, PrePrepare) else 0.0)]


class SlowingPrimary(Misbehaviour):
    """Sends each PRE-PREPARE a little later than the one before, up to just before the others' timers run out."""

    name = "slowing-primary"
    step = 0.0002
    """Seconds."""

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._proposed = 0
        self._last = (-1, -1)

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Everything else is prompt."""
        if not isinstance(message, PrePrepare):
            return [Sent(to, message)]
        if (message.view, message.number) > self._last:
            self._last = message.view, message.number
            self._proposed += 1
        most = 0.9 * self.group.tunables.view_timeout / 1000
        return [Sent(to, message, min(self._proposed * self.step, most))]


class Censoring(Misbehaviour):
    """Ignores one client, whoever passes its requests on."""

    name = "censoring"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._victim = self.random.choice(sorted(self.group.clients)) if self.group.clients else 0

    def hears(self, sender: int, body: bytes) -> bool:
        """Not the victim."""
        if sender == self._victim:
            return False
        if body[1:2] != b"\x01":
            return True
        try:
            message = decode(body)
            return not (
                type(message) is Request and ClientRequest(message.body, message.authenticator).client == self._victim
            )
        except CodecError:
            return True


def _spoilt(request: ClientRequest) -> ClientRequest:
    authenticator = request.authenticator
    return ClientRequest(request.body, authenticator[:1] + bytes(b ^ 1 for b in authenticator[1:]))
