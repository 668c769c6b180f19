"""From the words of a command line to the fields of an operation. Everything wrong is an `OperationError`."""

from __future__ import annotations

from pbft.application import OperationError


def to_bytes(word: str) -> bytes:
    """The bytes that the user typed; bytes that are no UTF-8 reach Python as surrogate escapes and come back here."""
    try:
        return word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise OperationError("a word holds half of a surrogate pair, which no bytes stand for") from None


def whole_number(word: str, what: str, low: int, high: int) -> int:
    """A whole number in plain decimal digits between `low` and `high`, both included."""
    # Length first: `int` has a limit of digits that differs with the environment of the process.
    if not (word.isascii() and word.isdecimal() and len(word) <= 20 and low <= int(word) <= high):
        raise OperationError(f"{what} is a whole number from {low} to {high}")
    return int(word)
