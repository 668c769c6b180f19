"""From authenticated bytes to events: decode once, strictly; check who may send what; verify seals and requests.

Everything that fails is counted per sender and reason and dropped; nothing raises. What arrives here was authenticated
as from `sender` by its link (or by the simulated network).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from pbft.batch import ClientRequest, decode_batch
from pbft.codec import CodecError
from pbft.config import is_client
from pbft.messages import (
    Checkpoint,
    Commit,
    Committed,
    FetchState,
    Message,
    NewView,
    Position,
    Prepare,
    PrePrepare,
    Refusal,
    Reply,
    Request,
    Sealed,
    Shown,
    Stable,
    StatePiece,
    StateRoots,
    Suspect,
    ViewChange,
    decode,
    wire,
)
from pbft.protocol.core import Refused
from pbft.protocol.replica import Replica

_EARLY_MESSAGES = 256
_EARLY_BYTES = 4 << 20
"""Of one sender, for views that have not begun here; what does not fit is asked for again by STATUS."""

_SEALED_LEAST = 4096
"""Bytes that a VIEW-CHANGE or NEW-VIEW counts as, at least: its seals take as long to verify as so many to decode."""

_SEALS_PER_REPLICA = 8
_SEALS = 16
"""Signatures of one peer's messages that are looked at in a STATUS interval: so many for each replica, and these. A
correct peer brings a NEW-VIEW, the VIEW-CHANGEs of all and a certificate, and CHECKPOINTs, which are not counted where
they tell something new."""

_VOTE_BYTES = 64
_decode_vote = lru_cache(maxsize=256)(decode)
"""Votes of different replicas for one digest are the same bytes: they are decoded once. Messages never change."""


class Authentication(Protocol):
    """What only keys can tell."""

    def request_is_authentic(self, request: ClientRequest) -> bool | None:
        """Whether the client's signature, or this replica's entry of its authenticator, verifies (rule 1.17). None: it
        is not known yet; then `Defer` is asked, and `Inbound.on_verified` is told."""

    def seal_is_authentic(self, message: Sealed) -> bool:
        """Whether the seal of a CHECKPOINT, VIEW-CHANGE or NEW-VIEW verifies under its sender's identity (rule 1.2)."""


Defer = Callable[[ClientRequest, int | None], bool]
"""(request, whose link it came over, None if a proposal waits for it) -> whether its signature will be verified."""

BURDENS = frozenset(
    (
        *(Refused.TOO_OFTEN, Refused.UNAUTHENTIC, Refused.MALFORMED, Refused.WRONG_ROLE, Refused.TOO_LARGE),
        Refused.NOT_WANTED,
    )
)
"""What a correct client that backs off hardly ever meets: looking at more of the same takes time from others."""


class Inbound:
    """The only caller of `decode` for messages that a replica receives."""

    def __init__(self, replica: Replica, authentication: Authentication, defer: Defer | None = None) -> None:
        """`defer`: for an authentication that does not know at once."""
        self._replica = replica
        self._defer: Defer = defer or (lambda request, source: False)
        self._unknown: dict[bytes, tuple[int, Request]] = {}
        """Digest and authenticator -> (sender, REQUEST) whose signature is being verified. Bounded by who defers."""
        self._authentication = authentication
        self._clients = replica.core.group.clients
        self._early: dict[int, deque[tuple[int, bytes, int | None]]] = {}
        """Sender -> (view, message, incarnation of its link) of views that have not begun here. Bounded for each
        sender, the oldest go."""
        self._early_bytes: dict[int, int] = {}
        self._view = replica.core.view
        self._view_bytes: dict[int, int] = {}
        """Replica -> bytes of VIEW-CHANGEs and NEW-VIEWs that it has sent in this STATUS interval."""
        self._seals: dict[int, int] = {}
        """Replica -> signatures that came with what it has sent in this STATUS interval."""
        self._interval_ends = 0.0
        self.last_request: tuple[int, int] | None = None
        """(client, session) of the last authentic request: where its replies are to go."""

    def receive(self, sender: int, body: bytes, incarnation: int | None = None) -> Refused | None:
        """Handle one message; the reason if it was refused. `incarnation`: the sender's, as its link says."""
        replica = self._replica
        if len(body) > _VOTE_BYTES and (reason := self._refuse_unread(sender, wire.peek(body), len(body))):
            return replica.core.refuse(sender, reason)
        try:
            message = decode(body) if len(body) > _VOTE_BYTES else _decode_vote(body)
            if type(message) is Request:
                return self._request(sender, message)
            if is_client(sender):
                return replica.core.refuse(sender, Refused.WRONG_ROLE)
            if incarnation is not None and self._has_ended(sender, incarnation, message):
                return replica.core.refuse(sender, Refused.ENDED)
            if isinstance(message, (Prepare, Commit, PrePrepare)):
                if message.view > replica.core.view:
                    return self._keep_early(sender, message.view, body, incarnation)
                if type(message) is PrePrepare:
                    return self._pre_prepare(sender, message)
                return replica.on_message(sender, message)
        except CodecError:
            return replica.core.refuse(sender, Refused.MALFORMED)
        if type(message) is Checkpoint:
            return self._checkpoint(sender, message)
        if type(message) is ViewChange:
            return self._view_change(sender, message)
        if type(message) is NewView:
            return self._new_view(sender, message)
        if type(message) is Stable:
            return self._stable(sender, message)
        if type(message) is Position or type(message) is Shown:
            return self._position(sender, message)
        if isinstance(message, (FetchState, StateRoots, StatePiece)):
            replica.core.effects.transfer.append((sender, message))
            return None
        if type(message) is Reply or type(message) is Refusal:
            return replica.core.refuse(sender, Refused.WRONG_ROLE)
        return replica.on_message(sender, message)

    def _refuse_unread(self, sender: int, kind: type[Message] | None, size: int) -> Refused | None:
        """What can be said before it is decoded (4 #26, #27): nobody tells a replica results, and a client sends
        nothing but REQUESTs. VIEW-CHANGEs and NEW-VIEWs are the longest messages that there are, and bring signatures
        to verify: their length is looked at, and how much of them the sender has sent in this STATUS interval. No more
        is heard than twice what a correct one sends, a NEW-VIEW and the VIEW-CHANGEs of all."""
        if kind is Reply or (is_client(sender) and kind is not Request):
            return Refused.WRONG_ROLE
        if kind is not ViewChange and kind is not NewView:
            return None
        core = self._replica.core
        one = core.group.view_change_max_bytes
        all_of_them = core.quorums.n * one
        if size > (all_of_them if kind is NewView else one):
            return Refused.TOO_LARGE
        self._look_at_the_clock()
        heard = self._view_bytes[sender] = self._view_bytes.get(sender, 0) + max(size, _SEALED_LEAST)
        return Refused.TOO_OFTEN if heard > 4 * all_of_them else None

    def _look_at_the_clock(self) -> None:
        core = self._replica.core
        if core.now >= self._interval_ends:
            self._interval_ends = core.now + core.tunables.status_interval / 1000
            self._view_bytes.clear()
            self._seals.clear()

    def _may_look(self, sender: int, seals: int) -> bool:
        """Whether so many more signatures of what a peer sends are worth the time; counts them. One liar would else
        keep the loops of all others busy with seals that are good, and say nothing (4 #26)."""
        self._look_at_the_clock()
        spent = self._seals[sender] = self._seals.get(sender, 0) + seals
        return spent <= _SEALS_PER_REPLICA * self._replica.core.quorums.n + _SEALS

    def _has_ended(self, sender: int, incarnation: int, message: Message) -> bool:
        """Whether it is a vote over a link of an ended incarnation. Signed messages name their own. Rules 1.7, 1.18."""
        if not self._replica.core.members.has_ended(sender, incarnation):
            return False
        return isinstance(message, (Prepare, Commit, PrePrepare, Suspect, Committed))

    def _keep_early(self, sender: int, view: int, body: bytes, incarnation: int | None) -> Refused:
        early = self._early.setdefault(sender, deque())
        early.append((view, body, incarnation))
        kept = self._early_bytes.get(sender, 0) + len(body)
        while kept > _EARLY_BYTES or len(early) > _EARLY_MESSAGES:
            kept -= len(early.popleft()[1])
        self._early_bytes[sender] = kept
        return self._replica.core.refuse(sender, Refused.OTHER_VIEW)

    def take_up_early(self) -> None:
        """A view has begun: receive what came too early for it, and look at requests that it left over."""
        for request in self._replica.requests.take_doubtful():
            self._request(self._replica.core.me, request.message())
        view = self._replica.core.view
        if view == self._view:
            return
        self._view = view
        early, self._early, self._early_bytes = self._early, {}, {}
        for sender, messages in early.items():
            for message_view, body, incarnation in messages:
                if message_view == view:
                    self.receive(sender, body, incarnation)
                elif message_view > view:
                    self._keep_early(sender, message_view, body, incarnation)

    def _checkpoint(self, sender: int, message: Checkpoint) -> Refused | None:
        replica = self._replica
        if replica.checkpoints.holds(message):
            return None
        if reason := replica.checkpoints.refuse_checkpoint(message):
            return replica.core.refuse(sender, reason)
        if not self._may_look(sender, 1):
            return replica.core.refuse(sender, Refused.TOO_OFTEN)
        if not self._is_authentic(message):
            return replica.core.refuse(sender, Refused.BAD_SEAL)
        self._seals[sender] -= replica.checkpoints.is_new(message)
        return replica.on_message(sender, message)

    def _stable(self, sender: int, message: Stable) -> Refused | None:
        replica = self._replica
        if reason := replica.checkpoints.refuse_stable(message):
            return replica.core.refuse(sender, reason)
        if not self._may_look(sender, len(message.checkpoints)):
            return replica.core.refuse(sender, Refused.TOO_OFTEN)
        if not all(map(self._is_authentic, message.checkpoints)):
            return replica.core.refuse(sender, Refused.BAD_SEAL)
        return replica.on_message(sender, message)

    def _position(self, sender: int, message: Position | Shown) -> Refused | None:
        replica = self._replica
        if type(message) is Position and not replica.positions.is_new(message):
            return None
        said: tuple[Position, ...] = message.positions if isinstance(message, Shown) else (message,)
        if not self._may_look(sender, len(said)):
            return replica.core.refuse(sender, Refused.TOO_OFTEN)
        if not all(map(self._is_authentic, said)):
            return replica.core.refuse(sender, Refused.BAD_SEAL)
        return replica.on_message(sender, message)

    def _view_change(self, sender: int, message: ViewChange) -> Refused | None:
        replica = self._replica
        if replica.views.holds(message):
            return None
        if reason := replica.views.refuse_view_change(message):
            return replica.core.refuse(sender, reason)
        if not self._may_look(sender, 1):
            return replica.core.refuse(sender, Refused.TOO_OFTEN)
        if not self._is_authentic(message):
            return replica.core.refuse(sender, Refused.BAD_SEAL)
        return replica.on_message(sender, message)

    def _new_view(self, sender: int, message: NewView) -> Refused | None:
        replica = self._replica
        if reason := replica.views.refuse_new_view(message):
            return replica.core.refuse(sender, reason)
        named = message.view_changes
        is_set = self._is_set(message)
        unknown = [m for m in named if not replica.views.holds(m)] if is_set else []
        if not self._may_look(sender, 1 + len(unknown)):
            return replica.core.refuse(sender, Refused.TOO_OFTEN)
        if not self._is_authentic(message):
            return replica.core.refuse(sender, Refused.BAD_SEAL)
        sound = is_set and all(map(self._is_authentic, unknown))
        return replica.on_new_view(sender, message, sound)

    def _is_set(self, message: NewView) -> bool:
        """Whether what it names can be a set of VIEW-CHANGEs for its view: else no seal of them is worth a look."""
        senders = {m.sender for m in message.view_changes}
        is_of_view = all(m.view == message.view for m in message.view_changes)
        return is_of_view and len(senders) == len(message.view_changes) <= self._replica.core.quorums.n

    def _is_authentic(self, message: Sealed) -> bool:
        known = message.sender < self._replica.core.quorums.n
        return known and self._authentication.seal_is_authentic(message)

    def _request(self, sender: int, message: Request) -> Refused | None:
        request = ClientRequest(message.body, message.authenticator)
        if is_client(sender) and sender != request.client:
            return self._replica.core.refuse(sender, Refused.WRONG_ROLE)  # a client speaks for itself alone
        is_own = is_client(sender)
        if self._replica.requests.is_too_large(request):
            return self._replica.requests.refuse_too_large(sender, request)
        if is_own and self._replica.requests.is_answered(request, self._replica.delivery.executed):
            # The table answers it, and no signature is looked at: the link says that it is the client's own question.
            self.last_request = (request.client, request.session)
            return self._replica.requests.answer_again(request)
        if is_own and self._replica.requests.turns_away(request):
            return self._replica.core.refuse(sender, Refused.TOO_OFTEN)
        authentic = self._is_known(request) and self._authentication.request_is_authentic(request)
        if authentic is None:
            return self._wait_for_verdict(sender, message, request)
        if not authentic and sender == self._replica.core.me:
            return None  # left over from a view: what its primary proposed vouches for nothing
        if authentic and is_own:
            self.last_request = (request.client, request.session)
        return self._replica.on_request(sender, request, authentic)

    def _is_known(self, request: ClientRequest) -> bool:
        """Whether it names a client of the configuration or, for RECOVER, a replica."""
        return request.client in self._clients or request.client < self._replica.core.quorums.n

    def _wait_for_verdict(self, sender: int, message: Request, request: ClientRequest) -> Refused | None:
        key = request.digest + request.authenticator
        is_own = is_client(sender)
        if key in self._unknown:
            if is_own:
                self.last_request = (request.client, request.session)
            return None
        if not self._defer(request, sender):
            if is_own:
                self._replica.requests.refuse_busy(request)
            return self._replica.core.refuse(sender, Refused.TOO_OFTEN)
        self._unknown[key] = (sender, message)
        if is_own:
            self.last_request = (request.client, request.session)
        return None

    def on_verified(self, verdicts: list[tuple[ClientRequest, bool]]) -> set[int]:
        """Signatures were looked at: receive what waited for that, and tell the proposals that do. Returns who sent
        what was refused."""
        refused = set()
        for request, verdict in verdicts:
            waiting = self._unknown.pop(request.digest + request.authenticator, None)
            if waiting is not None and self._request(*waiting) in BURDENS:
                refused.add(waiting[0])
            self._replica.on_request_verified(request, verdict)
        return refused

    def _pre_prepare(self, sender: int, message: PrePrepare) -> Refused | None:
        core = self._replica.core
        # Cheap checks before costly ones: what the handler would refuse anyway is not parsed (4 #26).
        if sender != core.primary:
            return core.refuse(sender, Refused.NOT_PRIMARY)
        if len(message.batch) > core.tunables.batch_max_bytes:
            return core.refuse(sender, Refused.TOO_LARGE)
        if reason := self._replica.ordering.refuse_place(message.view, message.number):
            return core.refuse(sender, reason)
        if self._replica.ordering.knows_proposal(message):
            return None  # a duplicate, accepted or held
        batch = decode_batch(message.batch)
        if self._replica.ordering.is_second(message):
            return self._replica.on_pre_prepare(sender, message, batch, (), ())
        knows = self._replica.requests.knows
        verified, unverified, unknown = [], [], []
        for request in batch.requests:
            if knows(request):
                continue
            if not request.authenticator or not self._is_known(request):
                return core.refuse(sender, Refused.MALFORMED)  # no correct primary proposes it: nothing is to be held
            verdict = self._is_known(request) and self._authentication.request_is_authentic(request)
            if verdict is None:
                if not self._defer(request, None):
                    return core.refuse(sender, Refused.TOO_OFTEN)  # STATUS brings it again
                unknown.append(request.digest)
            elif verdict:
                verified.append(request)
            else:
                unverified.append(request.digest)
        refused = self._replica.on_pre_prepare(sender, message, batch, tuple(unverified), tuple(unknown))
        for request in verified if refused is None else ():
            self._replica.requests.note_verified(request)
        return refused
