"""CHECKPOINTs, stable certificates, the low watermark. [CL99 §4.3], rules 1.4, 1.6, 1.8.

Only this file moves the low watermark. The own digest is compared with the quorum's whichever came first.
"""

from __future__ import annotations

from collections import deque

from pbft.messages import Checkpoint, Stable, encode
from pbft.protocol.core import Core, Refused
from pbft.protocol.effects import ALL
from pbft.protocol.records import (
    Boot,
    ClientKey,
    Entered,
    Left,
    Lost,
    OwnCheckpoint,
    PeerPosition,
    Reborn,
    Recovering,
    StableCertificate,
)

_REMEMBERED = 8
"""Own and certified digests remembered below h, to compare with those that come later."""


class Checkpoints:
    """Signed checkpoint votes: all of the window, and above it the newest of each sender."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._votes: dict[int, dict[int, Checkpoint]] = {}
        """n -> sender -> CHECKPOINT. Invariant: n > h."""
        self._unsynced: deque[tuple[int, Checkpoint]] = deque()
        self._certified: dict[int, bytes] = {}
        self._own: dict[int, bytes] = {}
        self._unsigned: dict[int, tuple[int, ...]] = {}
        """n -> incarnations in that state, for states computed here while this replica was mute: signed later."""
        self._cut: tuple[int, int] | None = None
        """(log position that must be durable first, position below which the log may go)."""

    def start(self) -> None:
        """After a restart: own checkpoints of the log count again, as votes; the states are computed once more."""
        log = self._core.log
        for number, checkpoint in log.own_checkpoints.items():
            if number > log.low:
                self._votes.setdefault(number, {})[self._core.me] = checkpoint
        if log.certificate:
            self._certified[log.low] = log.certificate[0].digest

    def on_loaded(self, number: int, state_digest: bytes) -> None:
        """The state after `number` was loaded, from the own disk or from others: it too is compared with the quorum's
        (rule 1.8). One that no q have signed, because a view began from it, must be signed here as well, also if this
        replica ended before it did."""
        if number > self._core.log.low:
            self.on_executed(number, state_digest)
        elif number:
            self._own[number] = state_digest
            self._compare(number)

    @property
    def stable_digest(self) -> bytes:
        """Digest of the state at h; empty at h = 0."""
        certificate = self._core.log.certificate
        return certificate[0].digest if certificate else b""

    # ---- own

    def on_executed(self, number: int, state_digest: bytes) -> None:
        """State `number` was computed here, or is on disk here: sign its CHECKPOINT, at most one digest per number
        (rule 1.4), unless h has passed it. It rests on the record that `number` executes (rule 1.6).

        A log that is executed once more may give another state than was signed: after a repair, or with an application
        that is not deterministic. Which of the two is right the certificate tells; this replica signs no second one."""
        core = self._core
        self._own[number] = state_digest
        self._forget(self._own)
        self._compare(number)
        signed = core.log.own_checkpoints.get(number)
        if signed is not None:
            if signed.digest != state_digest:
                text = f"executing the log again gave another state at checkpoint {number} than was signed before"
                core.accuse(core.me, "other-state", text)
            return
        self._unsigned[number] = core.members.vector()  # of this very state: it is called when `number` has executed
        self._forget(self._unsigned)
        self.sign()

    def sign(self) -> None:
        """Sign what was computed here and lies above h, as soon as this replica may vote: with f others gone, the
        window of those who wait for its signature would stand still for ever (rule 1.4)."""
        if not self._unsigned or self._core.is_mute:
            return
        unsigned, self._unsigned = self._unsigned, {}
        for number, incarnations in unsigned.items():
            if number >= self._core.log.low and number in self._own:
                self._sign(number, incarnations)

    def _sign(self, number: int, incarnations: tuple[int, ...]) -> None:
        core, state_digest = self._core, self._own[number]
        position = core.outbox.position
        unsigned = Checkpoint(core.me, core.incarnation, number, state_digest, core.boot, position, incarnations, b"")
        seal = core.sign(unsigned.signed_body(core.group.cluster, core.group.epoch))
        checkpoint = unsigned._replace(seal=seal)
        position = core.record(OwnCheckpoint((checkpoint,)))
        core.send(ALL, checkpoint, position)
        self._unsynced.append((position, checkpoint))

    def on_durable(self, durable: int) -> None:
        """Own CHECKPOINTs on disk count from now on (rule 1.5); a cut waits until what binds was written again."""
        if self._cut is not None and self._cut[0] <= durable:
            self._core.effects.cut, self._cut = self._cut[1], None
        while self._unsynced and self._unsynced[0][0] <= durable:
            _, checkpoint = self._unsynced.popleft()
            self._count(checkpoint)

    def on_state_durable(self, number: int) -> None:
        """State `number` is on disk with its certificate: write again, above the cut, everything small that still
        binds; the log below goes when that is synced (rule 1.6). One that came from others and is not stable lets
        nothing go: what was prepared between h and it must still be told in a VIEW-CHANGE."""
        core = self._core
        if number > core.log.low:
            return
        lost, recovering = core.log.lost, core.log.recovering  # the fold of Reborn ends both
        core.log.begin_rewrite()
        core.record(Boot(core.boot))
        if core.log.incarnation:
            core.record(Reborn(core.log.incarnation))
        if lost:
            core.record(Lost(core.boot))
        if recovering is not None:
            core.record(Recovering(*recovering))
        if core.log.new_view is not None:
            core.record(Entered(encode(core.log.new_view)))
        if core.log.view_change is not None and not core.is_active:
            core.record(Left((core.log.view_change,)))
        for client, keys in list(core.log.client_keys.items()):
            for key_id, key in list(keys.items()):
                core.record(ClientKey(client, key_id, key))
        for checkpoint in list(core.log.own_checkpoints.values()):
            core.record(OwnCheckpoint((checkpoint,)))
        for position in list(core.log.peer_positions.values()):
            core.record(PeerPosition((position,)))
        if core.log.certificate:
            core.record(StableCertificate(core.log.certificate))
        self._cut = (core.outbox.position, core.log.durable_checkpoint(number))

    # ---- others'

    def refuse_checkpoint(self, checkpoint: Checkpoint) -> Refused | None:
        """The cheap reasons, before the seal is looked at (4 #26)."""
        number = checkpoint.number
        if number % self._core.tunables.checkpoint_interval or number == 0:
            return Refused.NOT_A_CHECKPOINT
        return Refused.BELOW_WINDOW if number <= self._core.log.low else None

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether this very CHECKPOINT was verified here before."""
        return self._votes.get(checkpoint.number, {}).get(checkpoint.sender) == checkpoint

    def on_checkpoint(self, sender: int, checkpoint: Checkpoint) -> Refused | None:
        """CHECKPOINT(n, d, i), its seal verified; anyone may relay it (rule 1.2)."""
        core = self._core
        number = checkpoint.number
        if reason := self.refuse_checkpoint(checkpoint):
            return core.refuse(sender, reason)
        known = self._votes.get(number, {}).get(checkpoint.sender)
        if known is not None and known.incarnation < checkpoint.incarnation:
            del self._votes[number][checkpoint.sender]  # it does not know what it signed before its disk was lost
        elif known is not None and known.incarnation > checkpoint.incarnation:
            return core.refuse(sender, Refused.ENDED)
        elif known is not None and known.digest != checkpoint.digest:
            text = f"two signed digests for state {number}"
            core.accuse(checkpoint.sender, "two-checkpoints", text, known, checkpoint)
            return core.refuse(sender, Refused.EQUIVOCATION)
        self._count(checkpoint)
        return None

    def is_new(self, checkpoint: Checkpoint) -> bool:
        """Whether it is the first of its sender for a number of the window, which moves only as q agree."""
        number, log = checkpoint.number, self._core.log
        return log.low < number <= log.high and checkpoint.sender not in self._votes.get(number, ())

    def refuse_stable(self, message: Stable) -> Refused | None:
        """The cheap reasons: it is old, or not from q different replicas about one state."""
        first = message.checkpoints[0]
        if first.number <= self._core.log.low:
            return Refused.BELOW_WINDOW
        senders = {c.sender for c in message.checkpoints if (c.number, c.digest) == (first.number, first.digest)}
        if len(senders) < self._core.quorums.strong or len(senders) != len(message.checkpoints):
            return Refused.NOT_CERTIFIED
        return None

    def on_stable(self, sender: int, message: Stable) -> Refused | None:
        """A stable certificate relayed by anybody, its seals verified."""
        if reason := self.refuse_stable(message):
            return self._core.refuse(sender, reason)
        self._become_stable(message.checkpoints)
        return None

    def _count(self, checkpoint: Checkpoint) -> None:
        core = self._core
        number = checkpoint.number
        if number <= core.log.low:
            return
        if number > core.log.high:  # far above: the newest of each sender only, to learn that I am behind (4 #42)
            for n in [n for n in self._votes if core.log.high < n]:
                old = self._votes[n]
                if n > number and checkpoint.sender in old:
                    return
                old.pop(checkpoint.sender, None)
                if not old:
                    del self._votes[n]
        votes = self._votes.setdefault(number, {})
        votes.setdefault(checkpoint.sender, checkpoint)
        matching = tuple(c for c in votes.values() if c.digest == checkpoint.digest)
        if len(matching) >= core.quorums.strong:
            self._become_stable(matching)

    # ---- the transition

    def _become_stable(self, certificate: tuple[Checkpoint, ...]) -> None:
        """Entered when: q distinct replicas signed one digest for a number above h. [CL99 §4.3]"""
        core = self._core
        number = certificate[0].number
        core.record(StableCertificate(certificate))
        self._certified[number] = certificate[0].digest
        self._forget(self._certified)
        self._votes = {n: v for n, v in self._votes.items() if n > number}
        core.effects.stable.append(number)
        self._compare(number)

    def _compare(self, number: int) -> None:
        own, certified = self._own.get(number), self._certified.get(number)
        if own is not None and certified is not None and own != certified:
            self._core.diverge(number)

    @staticmethod
    def _forget(table: dict[int, bytes] | dict[int, tuple[int, ...]]) -> None:
        while len(table) > _REMEMBERED:
            del table[min(table)]

    @property
    def split(self) -> str:
        """The lowest number of the window at which the replicas have signed so many states that no quorum can agree on
        one any more, and who signed which; else empty. f liars cannot bring that about: the application is not
        deterministic."""
        quorums = self._core.quorums
        for number, votes in sorted(self._votes.items()):
            signers: dict[bytes, list[int]] = {}
            for sender, checkpoint in sorted(votes.items()):
                signers.setdefault(checkpoint.digest, []).append(sender)
            if max(map(len, signers.values())) + quorums.n - len(votes) < quorums.strong:
                said = "; ".join(f"{state.hex()[:8]} by {', '.join(map(str, s))}" for state, s in signers.items())
                return f"{number}: {said}"
        return ""

    # ---- for retransmission

    def own_above(self, number: int) -> list[Checkpoint]:
        """Own CHECKPOINTs, on disk, above `number`."""
        me = self._core.me
        return [v[me] for n, v in sorted(self._votes.items()) if n > number and me in v]
