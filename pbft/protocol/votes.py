"""Counting distinct senders of equal values. Rule 1.10."""

from __future__ import annotations

from collections.abc import Iterator


class Votes:
    """The first value of each sender for one (type, view, sequence number).

    A second, different value from the same sender is not counted; `add` tells so, and the caller keeps it as evidence.
    Invariant: the number of values held is at most the number of senders.
    """

    __slots__ = ("_by_sender",)

    def __init__(self) -> None:
        self._by_sender: dict[int, bytes] = {}

    def add(self, sender: int, digest: bytes) -> bool:
        """Count a vote. False if this sender voted for another digest before: equivocation."""
        return self._by_sender.setdefault(sender, digest) == digest

    def count(self, digest: bytes) -> int:
        """Distinct senders of exactly this digest."""
        return list(self._by_sender.values()).count(digest)

    def reached(self, threshold: int) -> bytes | None:
        """A digest with at least `threshold` distinct senders, if there is one."""
        counts: dict[bytes, int] = {}
        for digest in self._by_sender.values():
            total = counts.get(digest, 0) + 1
            if total >= threshold:
                return digest
            counts[digest] = total
        return None

    def besides(self, sender: int) -> Votes:
        """The votes of all others."""
        found = Votes()
        found._by_sender = {s: d for s, d in self._by_sender.items() if s != sender}
        return found

    def of(self, sender: int) -> bytes | None:
        """What this sender voted for."""
        return self._by_sender.get(sender)

    def drop(self, sender: int) -> None:
        """Forget a sender's vote: its session key has ended before the certificate was complete (rule 1.18)."""
        self._by_sender.pop(sender, None)

    def __len__(self) -> int:
        return len(self._by_sender)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return iter(self._by_sender.items())
