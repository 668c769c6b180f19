"""How a call can end other than with a result. Each error says what is known of the operation's fate.

Rules of this file: plain exceptions; `executed` is True, False, or None where nobody can know yet.
"""

from __future__ import annotations

from pbft.batch import Outcome


class ClientError(Exception):
    """A call that returned no result. `executed`: whether the operation took effect; None: unknown, and it may still
    do so. Repeat an operation whose outcome is unknown only if doing it twice is harmless."""

    def __init__(self, text: str, executed: bool | None) -> None:
        super().__init__(text)
        self.executed = executed


class RequestTimeout(ClientError):
    """The deadline came before enough replicas agreed. `executed` is False only if nothing was ever sent.

    `replied`: replicas that answered this request; `disagreed`: whether their answers differed.
    """

    def __init__(
        self, text: str, executed: bool | None = None, replied: tuple[int, ...] = (), disagreed: bool = False
    ) -> None:
        super().__init__(text, executed)
        self.replied = replied
        self.disagreed = disagreed


class OutcomeUnknown(RequestTimeout):
    """The replicas answered, and what they said is that they cannot tell (rule 1.15): the session is gone, or the
    operation executed (`executed` is True) and its result was too much to remember."""


class RequestRejected(ClientError):
    """The request can never succeed as it is; not executed. `reason` is a stable word: `too-large`, `malformed`,
    `unknown-client`, `beyond-window`."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text, False)
        self.reason = reason


class Overloaded(ClientError):
    """At least f+1 replicas said that they were busy until the deadline. Back off before calling again."""


class OperationFailed(ClientError):
    """The operation was ordered and the application, or a limit, said no; its writes were undone on every replica.

    `outcome`: REFUSED (the application's own text is in `message`), FAILED (it raised something else, without text),
    TOO_LARGE (the result exceeds `result_max_bytes`).
    """

    def __init__(self, outcome: Outcome, message: bytes = b"") -> None:
        texts = {
            Outcome.REFUSED: message.decode("utf-8", "backslashreplace") or "the application refused the operation",
            Outcome.FAILED: "the application failed on this operation, on all replicas alike, as their logs say; "
            "nothing was changed",
            Outcome.CROWDED: "the results of the operations sent with it left no room for its own; nothing was changed",
            Outcome.TOO_LARGE: "the result is larger than protocol.result_max_bytes; nothing was changed",
        }
        super().__init__(texts[outcome], False)
        self.outcome = outcome
        self.message = message


class ClientClosed(ClientError):
    """The client was closed while the call was in flight, or before it began."""
