"""How a replica that has lost its past gets a vote again. Rule 1.7; [CL02, proactive recovery].

It follows the others, has RECOVER(i, k) ordered, which ends its incarnation k, and votes as k+1 once a state at or
above its recovery point is stable: what it may have voted before lies in windows below that. RECOVER names a nonce that
the replicated state keeps, so that whoever waits for the execution of its own RECOVER is not misled by one that it
signed in an earlier life; so nobody's word about its incarnation is needed.

Rules of this file: the only place that begins and ends a recovery.
"""

from __future__ import annotations

from pbft.batch import AuthKind, ClientRequest, recover_body, signature_body
from pbft.crypto.digests import digest
from pbft.messages import Request
from pbft.protocol.core import Core
from pbft.protocol.delivery import Delivery
from pbft.protocol.effects import ALL
from pbft.protocol.records import Lost, Reborn, Recovering
from pbft.protocol.retransmission import Retransmission

_REPEAT = 1.0
"""Seconds between two copies of a RECOVER."""


class Recovery:
    """Of one replica: from the loss of its past to its first vote after that."""

    def __init__(self, core: Core, delivery: Delivery, retransmission: Retransmission, secret: bytes) -> None:
        self._core = core
        self._delivery = delivery
        self._retransmission = retransmission
        self._secret = secret
        self._rests_on = 0
        """Log position of Recovering: the RECOVER is not sent before that is durable."""
        self._void: tuple[int, int] | None = None
        """A RECOVER in the log that has served its purpose in a life that this one does not know of. Rule 1.7 d."""
        self._next = 0.0
        self._reborn_at = 0
        """Log position of Reborn; 0 while it is not written."""

    def start(self, lost: str) -> None:
        """`lost`: how the past was lost, if the driver knows that it was; else the log tells."""
        core = self._core
        if lost:
            core.record(Lost(core.boot))
        elif core.log.lost:
            lost = "this replica had lost its past before it was started last"
        core.lost = lost
        self._rests_on = core.outbox.position

    def start_again(self, lost: str) -> None:
        """As `start`, in the middle of a life: others know of votes that this replica does not, and if it was
        recovering, of the end of that recovery."""
        self._void = self._core.log.recovering
        self.start(lost)

    @property
    def text(self) -> str:
        """How far the recovery is, for operators; empty while there is none."""
        core = self._core
        if not core.lost:
            return ""
        if self._reborn_at:
            return f"{core.lost}; it has recovered and is about to vote"
        if self._is_executed:
            point = core.members.point(core.me)
            return f"{core.lost}; it recovers: it votes once state {point} is stable, and {core.log.low} is"
        if core.log.recovering is not None:
            return f"{core.lost}; it recovers: it waits for a quorum of the others to order that"
        return f"{core.lost}; it recovers: first it gets what the others have executed"

    @property
    def _is_executed(self) -> bool:
        """Whether the RECOVER that was signed last has executed, and gave this replica its present incarnation."""
        core, signed = self._core, self._core.log.recovering
        if signed is None or signed == self._void:
            return False
        return (core.members.incarnation(core.me) - 1, core.members.nonce(core.me)) == signed

    def step(self) -> None:
        """At the end of each sweep: entered when the RECOVER has executed and a state at or above the recovery point is
        stable, and executed here."""
        core = self._core
        if not core.lost or core.unheard or self._reborn_at or not self._is_executed:
            return
        if core.members.point(core.me) <= core.log.low <= self._delivery.executed:
            self._reborn_at = core.record(Reborn(core.members.incarnation(core.me)))

    def on_durable(self, durable: int) -> None:
        """The new incarnation is on disk: the driver notes that the past is known again, and then says so."""
        if self._reborn_at and self._reborn_at <= durable:
            self._core.effects.reborn = True

    def on_declared(self) -> bool:
        """It is noted that all that binds this incarnation is in the log: from now on this replica votes. False if that
        was said before."""
        core = self._core
        if not core.lost:
            return False
        core.lost = ""
        core.incarnation = core.log.incarnation
        core.sign = core.sign_as(core.incarnation)
        self._reborn_at = 0
        return True

    def on_tick(self) -> None:
        """Sign RECOVER, and repeat it until it has executed."""
        core = self._core
        if not core.lost or core.unheard or self._reborn_at or self._is_executed or core.now < self._next:
            return
        mine, signed = core.members.incarnation(core.me), core.log.recovering
        if signed is None or signed[0] < mine or signed == self._void:
            if self._retransmission.lags or self._delivery.executed < core.members.point(core.me):
                return
            nonce = digest(b"recover", self._secret + core.boot.to_bytes(8, "big") + mine.to_bytes(8, "big"))[:8]
            self._rests_on = core.record(Recovering(mine, int.from_bytes(nonce, "big")))
        elif self._rests_on <= core.outbox.durable:
            self._next = core.now + _REPEAT
            core.send(ALL, self._request(*signed))

    def _request(self, incarnation: int, nonce: int) -> Request:
        core = self._core
        body = recover_body(core.me, nonce, incarnation)
        request = ClientRequest(body, b"")
        sign = core.sign_as(incarnation)
        seal = sign(signature_body(core.group.cluster, core.group.epoch, request.digest))
        return Request(body, bytes([AuthKind.SEAL]) + seal)
