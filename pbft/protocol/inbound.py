"""From authenticated bytes to events: decode once, strictly; check who may send what; verify seals and requests.

Everything that fails is counted per sender and reason and dropped; nothing raises. What arrives here was authenticated
as from `sender` by its link (or by the simulated network).
"""

from __future__ import annotations

from typing import Protocol

from pbft.batch import ClientRequest, decode_batch
from pbft.codec import CodecError
from pbft.config import is_client
from pbft.messages import Checkpoint, PrePrepare, Refusal, Reply, Request, Stable, decode
from pbft.protocol.core import Refused
from pbft.protocol.replica import Replica


class Authentication(Protocol):
    """What only keys can tell."""

    def request_is_authentic(self, request: ClientRequest) -> bool:
        """Whether the client's signature, or this replica's entry of its authenticator, verifies (rule 1.17)."""

    def checkpoint_is_authentic(self, checkpoint: Checkpoint) -> bool:
        """Whether the seal of a CHECKPOINT verifies under its sender's identity (rule 1.2)."""


class Inbound:
    """The only caller of `decode` for messages that a replica receives."""

    def __init__(self, replica: Replica, authentication: Authentication) -> None:
        self._replica = replica
        self._authentication = authentication
        self._clients = replica.core.group.clients
        self.last_request: tuple[int, int] | None = None
        """(client, session) of the last authentic request: where its replies are to go."""

    def receive(self, sender: int, body: bytes) -> Refused | None:
        """Handle one message; the reason if it was refused."""
        replica = self._replica
        try:
            message = decode(body)
            if type(message) is Request:
                return self._request(sender, message)
            if is_client(sender):
                return replica.core.refuse(sender, Refused.WRONG_ROLE)
            if type(message) is PrePrepare:
                return self._pre_prepare(sender, message)
        except CodecError:
            return replica.core.refuse(sender, Refused.MALFORMED)
        if type(message) is Checkpoint and not self._is_authentic(message):
            return replica.core.refuse(sender, Refused.BAD_SEAL)
        if type(message) is Stable:
            if message.checkpoints[0].number <= replica.core.log.low:
                return replica.core.refuse(sender, Refused.BELOW_WINDOW)  # before any signature is looked at
            if len(message.checkpoints) > replica.core.quorums.n or not all(
                map(self._is_authentic, message.checkpoints)
            ):
                return replica.core.refuse(sender, Refused.BAD_SEAL)
        if type(message) is Reply or type(message) is Refusal:
            return replica.core.refuse(sender, Refused.WRONG_ROLE)
        return replica.on_message(sender, message)

    def _is_authentic(self, checkpoint: Checkpoint) -> bool:
        known = checkpoint.sender < self._replica.core.quorums.n
        return known and self._authentication.checkpoint_is_authentic(checkpoint)

    def _request(self, sender: int, message: Request) -> Refused | None:
        request = ClientRequest(message.body, message.authenticator)
        if is_client(sender) and sender != request.client:
            return self._replica.core.refuse(sender, Refused.WRONG_ROLE)  # a client speaks for itself alone
        authentic = request.client in self._clients and self._authentication.request_is_authentic(request)
        if authentic and sender == request.client:
            self.last_request = (request.client, request.session)
        return self._replica.on_request(sender, request, authentic)

    def _pre_prepare(self, sender: int, message: PrePrepare) -> Refused | None:
        core = self._replica.core
        # Cheap checks before costly ones: what the handler would refuse anyway is not parsed (4 #26).
        if sender != core.primary:
            return core.refuse(sender, Refused.NOT_PRIMARY)
        if len(message.batch) > core.tunables.batch_max_bytes:
            return core.refuse(sender, Refused.TOO_LARGE)
        slot = core.log.slots.get(message.number)
        if slot is not None and slot.digest == message.digest and message.view == core.view:
            return None  # a duplicate
        batch = decode_batch(message.batch)
        knows = self._replica.requests.knows
        authentic = self._authentication.request_is_authentic
        unverified = tuple(
            r.digest for r in batch.requests if not knows(r) and not (r.client in self._clients and authentic(r))
        )
        return self._replica.on_pre_prepare(sender, message, batch, unverified)
