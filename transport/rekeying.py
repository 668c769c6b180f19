"""When the keys of a link are renewed, and how often a peer may ask for it. Rule 1.18.

Nothing is lost by a refresh: its messages are ordinary frames, and each direction changes keys right behind one
of them. Only the side that dialed begins, unless the other side has other software.
"""

from __future__ import annotations

from pbft.crypto import HandshakeConfig, HandshakeError, Refresh, Session
from pbft.transport.limits import Limits


class LinkKeys:
    """The key refreshes of one link. `refreshes`: how many were begun."""

    __slots__ = ("_began_at", "_handshake", "_limits", "_refresh", "_sealed_before", "_session", "refreshes")

    def __init__(self, session: Session, handshake: HandshakeConfig, limits: Limits, now: float) -> None:
        self._session = session
        self._handshake = handshake
        self._limits = limits
        self._refresh: Refresh | None = None
        self._began_at = now
        self._sealed_before = 0
        self.refreshes = 0

    def offer_if_due(self, now: float) -> bytes | None:
        """The message that begins a refresh, if the present keys have been used for long enough."""
        if self._refresh is not None and self._refresh.in_progress:
            return None
        limits = self._limits
        # Twice what the peer tolerates, for the way of an offer takes longer or shorter each time.
        if self.refreshes and now - self._began_at < 2 * limits.rekey_interval_min:
            return None
        sealed = self._session.sent - self._sealed_before
        by_messages = 0 < limits.rekey_after_messages <= sealed
        by_time = 0 < limits.rekey_after_seconds <= now - self._began_at
        return self._begun(now).start() if by_messages or by_time else None

    def take(self, body: bytes, now: float) -> bytes | None:
        """A refresh message of the peer; returns the answer. HandshakeError: the link has to be closed."""
        refresh = self._refresh
        if refresh is None or not refresh.in_progress:
            # Each offer costs signatures, so a peer must not make them at will.
            if self.refreshes and now - self._began_at < self._limits.rekey_interval_min:
                raise HandshakeError("flood", "it asks for new keys all the time")
            refresh = self._begun(now)
        return refresh.on_message(body)

    def answer_sealed(self) -> None:
        """What `take` returned was sealed just now: the next frame uses the new keys."""
        if self._refresh is not None:
            self._refresh.sent()

    def is_stuck(self, now: float) -> bool:
        """Whether the peer has not completed a refresh in the time of a handshake."""
        refresh = self._refresh
        return refresh is not None and refresh.in_progress and now - self._began_at > self._limits.handshake_timeout

    def _begun(self, now: float) -> Refresh:
        if self._refresh is None:
            self._refresh = Refresh(self._session, self._handshake.identity, self._handshake.entropy)
        self._began_at = now
        self._sealed_before = self._session.sent
        self.refreshes += 1
        return self._refresh
