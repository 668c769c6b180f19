"""What the owner of a hub can get wrong. Nothing that a peer does raises any of these."""

from __future__ import annotations


class TransportError(Exception):
    """A hub that was set up wrongly: one sentence that says what and what to do."""


class ListenError(TransportError):
    """An address that cannot be listened on: in use, not of this machine, not resolvable, not permitted."""
