"""What can go wrong with the replicated state, by whose fault."""

from __future__ import annotations


class StateError(Exception):
    """Base of everything that the state refuses. The state is as it was before the refused call."""


class StateTypeError(StateError, TypeError):
    """A key or value that is not exactly `bytes`: what is mutable could change behind the state's back."""


class StateBoundError(StateError, ValueError):
    """A key or value longer than the state takes, or an argument out of range."""


class ReadOnlyError(StateError):
    """A write while the state is read-only: a query tried to change something."""


class ProofError(StateError, ValueError):
    """Bytes from elsewhere that do not prove what they were said to prove. The sender is at fault."""
