"""What a replica tells its operator of others: refused messages and accusations, in the log at a bounded rate, and
evidence as files. Owns `DATA/evidence/`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import trio

from pbft.config import Group
from pbft.crypto.digests import digest
from pbft.evidence import encode_proof, proof_of
from pbft.messages import encode
from pbft.protocol.core import Core, Refused
from pbft.protocol.effects import Evidence
from pbft.protocol.suspicion import Suspicion
from pbft.storage.files import RealDirectory, replace_file

log = logging.getLogger("pbft.node")

MAX_EVIDENCE_FILES = 32
"""Kept at most against one replica: a liar neither fills the disk nor keeps out what others did."""

_UNTIMELY = frozenset((
    Refused.ABOVE_WINDOW, Refused.OTHER_VIEW, Refused.LEFT_VIEW, Refused.STALE_VIEW, Refused.NOT_PRIMARY,
    Refused.NOT_VOTING, Refused.NOT_WANTED,
))  # fmt: skip
"""What a correct peer's message meets that comes too early or too late, around a view change or a restart."""

_LOG_AGAIN = 60.0
"""Seconds before the same is said of the same principal again."""


class Reports:
    """Of one replica."""

    def __init__(self, group: Group, me: int, folder: Path | None) -> None:
        """`folder`: where evidence is kept; None keeps none."""
        self._group = group
        self._me = me
        self._folder = folder
        self._refused: dict[tuple[int, str], tuple[float, int]] = {}
        self._accused: dict[tuple[int, str], float] = {}
        self._view: int | None = None
        self._suspected: int | None = None
        self._waiting: trio.MemorySendChannel[tuple[str, bytes]] | None = None
        self.accusations = 0
        """What no correct replica does, seen here since the start."""

    def accuse(self, evidence: Evidence) -> None:
        """Log it, and keep what proves it to others."""
        self.accusations += evidence.culprit != self._me
        if evidence.signed and self._waiting is not None and self._folder is not None:
            proof = encode_proof(
                proof_of(self._group, evidence.culprit, evidence.kind, tuple(map(encode, evidence.signed)))
            )
            name = f"{evidence.kind}-{evidence.culprit}-{digest(b'evidence', proof).hex()[:16]}"
            try:
                self._waiting.send_nowait((name, proof))
            except trio.WouldBlock:
                log.warning("replica %d: evidence against %d comes faster than the disk", self._me, evidence.culprit)
        now = time.monotonic()
        if now - self._accused.get((evidence.culprit, evidence.kind), -_LOG_AGAIN) < _LOG_AGAIN:
            return  # a liar does not fill the log; how often it lied is counted with the refusals
        self._accused[evidence.culprit, evidence.kind] = now
        log.warning("replica %d: %s by %d: %s", self._me, evidence.kind, evidence.culprit, evidence.text)

    def refusals(self, now: float, refused: Mapping[tuple[int, str], int]) -> None:
        """Log what was refused since the last time, for each sender and reason."""
        for (sender, reason), count in refused.items():
            when, logged = self._refused.get((sender, reason), (-_LOG_AGAIN, 0))
            if reason == Refused.BELOW_WINDOW:
                continue  # a vote that came after the certificate was complete: the normal case
            if count > logged and now - when >= _LOG_AGAIN:
                level = logging.DEBUG if reason in _UNTIMELY else logging.INFO
                log.log(level, "replica %d: refused %d from %d: %s", self._me, count - logged, sender, reason)
                self._refused[sender, reason] = (now, count)

    def views(self, core: Core, suspicion: Suspicion) -> None:
        """Log that a view has begun, and that its primary is suspected: once each."""
        if core.is_active and core.view != self._view:
            if self._view is not None:
                log.info("replica %d: view %d begins; its primary is replica %d", self._me, core.view, core.primary)
            self._view = core.view
        view = suspicion.suspected
        if view is not None and view != self._suspected:
            primary = self._group.quorums.primary(view)
            why = suspicion.reason
            log.warning("replica %d: suspects replica %d, the primary of view %d: %s", self._me, primary, view, why)
        if view is not None:
            self._suspected = view

    async def keep_evidence(self) -> None:
        """Write what waits, in a thread, until cancelled."""
        self._waiting, waiting = trio.open_memory_channel[tuple[str, bytes]](16)
        async for name, proof in waiting:
            try:
                await trio.to_thread.run_sync(self._write, name, proof)
            except OSError as error:
                log.error("replica %d: evidence %s is not kept: %s", self._me, name, error)

    def _write(self, name: str, proof: bytes) -> None:
        assert self._folder is not None
        directory = RealDirectory(self._folder)
        known = directory.list()
        culprit = name.rsplit("-", 2)[1]
        against = sum(other.rsplit("-", 2)[1] == culprit for other in known if other.count("-") >= 2)
        if name not in known and against < MAX_EVIDENCE_FILES:
            replace_file(directory, name, proof)
            log.warning("replica %d: evidence is kept in %s", self._me, self._folder / name)
