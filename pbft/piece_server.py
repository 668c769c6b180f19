"""Pieces of a state that others fetch are made in a thread: one may need a read from the disk, and much hashing."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from pbft.host import Host
from pbft.transfer_source import Answers, Job, answers


class PieceServer:
    """Of one replica. One job at a time."""

    def __init__(self) -> None:
        self._jobs, self._todo = trio.open_memory_channel[Job](1)

    def serve(self, job: Job) -> None:
        """See `Ports.serve`."""
        self._jobs.send_nowait(job)

    async def run(self, host: Host, sweep: Callable[[], None]) -> None:
        """Do what comes, until cancelled. `sweep` carries out what it causes."""
        async for job in self._todo:
            made, seconds = await trio.to_thread.run_sync(_measured, job)
            host.served(job, made, seconds)
            sweep()


def _measured(job: Job) -> tuple[Answers, float]:
    begun = time.thread_time()
    return answers(job), time.thread_time() - begun
