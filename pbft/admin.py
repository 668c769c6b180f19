"""The admin address of a replica: whoever connects is sent its status as one line of JSON.

A line `checkpoint` sent back asks for the newest stable state to be written to disk; nothing else can be asked.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping

import trio

from pbft.transport import ListenError

_MAX_CONNECTIONS = 16
_SECONDS = 2.0
CHECKPOINT = b"checkpoint\n"


async def serve_status(
    host: str,
    port: int,
    status: Callable[[], Mapping[str, object]],
    checkpoint: Callable[[], None] = lambda: None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. Raises ListenError if the address cannot be bound."""
    limit = trio.CapacityLimiter(_MAX_CONNECTIONS)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            if limit.available_tokens <= 0:
                return
            async with limit:
                line = json.dumps(status(), separators=(",", ":")).encode() + b"\n"
                with trio.move_on_after(_SECONDS), contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(line)
                    if await stream.receive_some(len(CHECKPOINT)) == CHECKPOINT:
                        checkpoint()

    async with trio.open_nursery() as nursery:
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {host}:{port} for status: {error.strerror}; is it in use, or not of this machine?"
            ) from error
        task_status.started()
        await trio.serve_listeners(serve, listeners, handler_nursery=nursery)
