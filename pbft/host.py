"""The three machines wired together: agreement, execution, storage. Pure glue, driven by `node.py` and the simulator.

A driver calls `receive`, `tick`, `durable`, `executed` as things happen, and `flush()` once at the end of a sweep:
whatever arrived meanwhile is one batch of work (DESIGN 1.4). Effects are carried out in the order that
`pbft/protocol/effects.py` defines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pbft.batch import Batch, ClientRequest
from pbft.config import Group
from pbft.execution import ExecutionSnapshot
from pbft.execution.results import Executed, ExecutionStart, Result
from pbft.messages import Message, Stable, encode
from pbft.protocol.core import Refused, Sign
from pbft.protocol.effects import Effects, Evidence, invariant
from pbft.protocol.inbound import Authentication, Defer, Inbound
from pbft.protocol.records import decode_record, encode_record
from pbft.protocol.replica import Replica, fold
from pbft.protocol.suspicion import NO_CONDITIONS, Conditions
from pbft.transfer import Aimed, Fetched, Prepared, StateTransfer, Took
from pbft.transfer_source import Answers, Job

_BUSY = 1.0
"""Seconds after the last batch in which requests count as being ordered."""


class LogPort(Protocol):
    """Where records go; `pbft.storage.RecordLog` is one."""

    @property
    def durable_position(self) -> int:
        """Position up to which records are on disk."""

    def append(self, record: bytes) -> int:
        """Take a record; returns its position, one above the last one's. Never blocks."""

    def cut(self, below_position: int) -> None:
        """Records below this position are needed no more."""


@dataclass(slots=True)
class Ports:
    """What a host uses of the world around it. All callables return at once."""

    log: LogPort
    send: Callable[[int, bytes, Message], None]
    """(destination or ALL, encoded message, the message)"""
    execute: Callable[[int, Batch], Executed | None]
    """Returns the result if the executor was quick, else None; the driver calls `Host.executed` later."""
    answer: Callable[[ClientRequest], None]
    """Ask the executor's table; the driver calls `Host.answered` with what it says."""
    stable: Callable[[int], None]
    evidence: Callable[[Evidence], None]
    kept: Callable[[int], ExecutionSnapshot | None]
    """The state after this number, if the executor keeps it still."""
    prepare: Callable[[], None]
    """Copy the newest state that is kept, or empty ones; the driver calls `Host.prepared`."""
    serve: Callable[[Job], None]
    """Make pieces of a state that another replica asked for; the driver calls `Host.served`."""
    keep: Callable[[Aimed | Took | None], None]
    """What comes of a state from others, for `prepare` after a restart; None: all of that is of no use any more."""
    install: Callable[[Fetched], None]
    """Put a fetched state in the place of the executor's, once it is on disk; the driver calls `Host.installed`."""
    reborn: Callable[[], None]
    """Note durably that the log holds all that binds this incarnation; the driver calls `Host.declared`."""


class Host:
    """One replica's agreement, bound to its ports."""

    def __init__(
        self, replica: Replica, authentication: Authentication, ports: Ports, defer: Defer | None = None
    ) -> None:
        self.replica = replica
        self.inbound = Inbound(replica, authentication, defer)
        self._ports = ports
        self.transfer = StateTransfer(
            replica.core.group, replica.core.me, self._send, self._kept, ports.prepare, ports.serve, ports.keep
        )
        self._executed = replica.delivery.executed
        self._busy_until = 0.0
        self.bytes_logged = 0
        """Bytes of records appended since this host was made."""

    # ---- events

    def set_time(self, now: float, wall: int) -> None:
        """Before the events of a sweep. `now` in seconds, `wall` in microseconds since the epoch."""
        self.replica.set_time(now, wall)

    def receive(self, sender: int, body: bytes, incarnation: int | None = None) -> Refused | None:
        """A message that its link authenticated as from `sender`, in this incarnation (None: a client has none)."""
        return self.inbound.receive(sender, body, incarnation)

    def durable(self, position: int) -> None:
        """Records up to `position` are on disk."""
        self.replica.on_durable(position)

    def executed(self, done: Executed) -> None:
        """A batch that `Ports.execute` returned None for has executed."""
        self.replica.on_executed(done)

    def answered(self, result: Result) -> None:
        """The executor's table answered a request."""
        self.replica.on_answered(result)

    def checkpoint_durable(self, number: int) -> None:
        """State `number`, which is stable, is on disk."""
        self.replica.on_checkpoint_durable(number)

    def tick(self, conditions: Conditions = NO_CONDITIONS) -> None:
        """Time has passed; call at least every 50 milliseconds."""
        self.replica.on_tick(conditions)
        now, executed = self.replica.core.now, self.replica.delivery.executed
        if executed != self._executed:
            self._executed, self._busy_until = executed, now + _BUSY
        self.transfer.on_tick(now, self.replica.state_wanted, now < self._busy_until)

    def prepared(self, start: Prepared) -> None:
        """The states to start a transfer from; they are its own from now on."""
        self.transfer.on_prepared(start)

    def served(self, job: Job, made: Answers, seconds: float) -> None:
        """What `pbft.transfer_source.answers` made of a job, and the processor's time that it took."""
        self.transfer.source.on_served(job, made, seconds)

    def installed(self, start: ExecutionStart | None) -> None:
        """The executor stands at the fetched state, which is on disk; None: it was refused, or came too late."""
        self.transfer.on_installed()
        if start is not None:
            self.replica.on_installed(start)

    def declared(self) -> bool:
        """What `Ports.reborn` asked for is done. False if that was said before."""
        return self.replica.on_declared()

    def certificate(self, number: int) -> bytes:
        """An encoded STABLE for state `number`, if that is the state at h; else nothing."""
        certificate = self.replica.core.log.certificate
        return encode(Stable(certificate)) if certificate and certificate[0].number == number else b""

    # ---- effects

    def flush(self) -> None:
        """The sweep is over: carry out what it caused, and what that causes in turn."""
        replica = self.replica
        while True:
            self.inbound.take_up_early()
            replica.finish()
            effects = replica.take_effects()
            if not self._carry_out(effects):
                return

    def _kept(self, number: int) -> ExecutionSnapshot | None:
        """What others may have: nothing of a state that is known to be wrong."""
        return None if self.replica.core.diverged else self._ports.kept(number)

    def _send(self, to: int, message: Message) -> None:
        self._ports.send(to, encode(message), message)

    def _carry_out(self, effects: Effects) -> bool:
        """True if something happened that may have further effects at once."""
        ports, replica = self._ports, self.replica
        again = False
        if effects.records:
            position = 0
            for record in effects.records:
                encoded = encode_record(record)
                self.bytes_logged += len(encoded)
                position = ports.log.append(encoded)
            invariant(
                position == replica.core.outbox.position,
                "the log and the core count alike",
                log=position,
                core=replica.core.outbox.position,
            )
            if ports.log.durable_position > replica.core.outbox.durable:  # a volatile log is durable at once
                replica.on_durable(ports.log.durable_position)
                again = True
        durable = ports.log.durable_position
        for to, message, rests_on in effects.sends:
            # The second guard of rule 1.5, at the door: the log itself must hold what this message promises.
            invariant(rests_on <= durable, "durable before said", message=type(message).__name__, position=rests_on)
            ports.send(to, encode(message), message)
        for number, batch in effects.execute:
            done = ports.execute(number, batch)
            if done is not None:
                replica.on_executed(done)
                again = True
        for request in effects.answers:
            ports.answer(request)
        for number in effects.stable:
            ports.stable(number)
        if effects.cut:
            ports.log.cut(effects.cut)
        for evidence in effects.evidence:
            ports.evidence(evidence)
        if effects.reborn:
            ports.reborn()
        for sender, part in effects.transfer:
            self.transfer.on_message(sender, part)
        if (fetched := self.transfer.take_fetched()) is not None:
            ports.install(fetched)
        return again or bool(effects.stable) or bool(effects.answers)


def restore(
    group: Group,
    me: int,
    sign: Sign,
    secret: bytes,
    records: list[tuple[int, bytes]],
    boot: int,
    execution: ExecutionStart,
    lost: str = "",
) -> Replica:
    """A replica as its log and its executor's checkpoint say. Raises `pbft.codec.CodecError` on a record of another
    version; storage has checked that every byte is the one that was written."""
    decoded = [(position, decode_record(record)) for position, record in records]
    replica = Replica(group, me, sign, secret, fold(group, decoded))
    replica.start(decoded[-1][0] if decoded else 0, boot, execution, lost)
    return replica
