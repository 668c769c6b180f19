"""`run_replica`: from files to a running replica, and its clean end."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import trio

from pbft.authentication import signer
from pbft.config import ConfigError
from pbft.config_file import Address, ClusterConfig
from pbft.crypto import PrivateKey, SigningIdentity, read_private_key
from pbft.disk_watch import is_passing, wait_for_room
from pbft.misbehaviour import make
from pbft.node import Node
from pbft.startup import Started, start_replica
from pbft.storage.errors import DirectoryUnusable

log = logging.getLogger("pbft.node")

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a busy thread lets another one go on. A thread that verifies signatures lets go for each, and
would wait for the event loop as long every time: with Python's 5 milliseconds, 200 signatures a second is all it does.
"""


async def run_replica(
    config: ClusterConfig,
    me: int,
    *,
    data: Path | None = None,
    listen: Address | None = None,
    peers: Mapping[int, Address] | None = None,
    volatile: bool = False,
    adversary: str | None = None,
) -> int:
    """One replica until SIGTERM or SIGINT; returns the exit code. It may have to begin anew from its disk meanwhile:
    then everything is made again, as by a process that was restarted.

    Raises `pbft.config.ConfigError`, `pbft.crypto.KeyFileError`, `pbft.storage.StorageError` and OSError, each with one
    sentence for the operator.
    """
    repairs: list[str] = []
    lives = 0
    while True:
        lives += 1
        try:
            code = await _live(config, me, data, listen, peers, volatile, adversary, repairs)
        except (OSError, DirectoryUnusable) as error:
            cause = error if isinstance(error, OSError) else error.cause
            if lives == 1 or not is_passing(cause):
                raise
            log.error("replica %d cannot begin anew yet: %s", me, error)
            await wait_for_room(data or config.data_directory(me))
            continue
        if code is not None:
            return code
        log.warning("replica %d begins anew from its disk", me)


async def _live(
    config: ClusterConfig,
    me: int,
    data: Path | None,
    listen: Address | None,
    peers: Mapping[int, Address] | None,
    volatile: bool,
    adversary: str | None,
    repairs: list[str],
) -> int | None:
    """From a start to the next one: the exit code, None if the replica is to begin anew."""
    from pbft.cli.applications import application_of

    application = application_of(config)
    key = _own_key(config, me)
    identity = SigningIdentity(key, config.group.cluster, me, 0)
    misbehaviour = make(adversary, me, config.group, random.Random(me), signer(identity)) if adversary else None
    token = trio.lowlevel.current_trio_token()
    node: Node | None = None

    def on_durable(position: int) -> None:
        if node is not None:
            node.on_durable(position)

    def on_disk_error(error: OSError) -> None:
        if node is not None:
            node.on_disk_error(error)

    folder = data or config.data_directory(me)
    started = await trio.to_thread.run_sync(
        lambda: start_replica(
            config.group,
            me,
            application,
            lambda incarnation: signer(identity.for_incarnation(incarnation)),
            os.urandom(16),
            data=folder,
            token=config.token_path(me),
            genesis=config.genesis_path,
            volatile=volatile,
            on_durable=on_durable,
            on_disk_error=on_disk_error,
        )
    )
    entry = config.replicas[me]
    addresses = {r.id: r.address for r in config.replicas} | dict(peers or {})
    node = Node(
        config,
        me,
        key,
        started,
        listen=listen or entry.address,
        peers=addresses,
        volatile=volatile,
        misbehaviour=misbehaviour,
        token=token,
        evidence=folder / "evidence",
        repairs=repairs,
    )
    if misbehaviour is not None:
        log.warning("replica %d MISBEHAVES ON PURPOSE: %s", me, adversary)
    if started.replica.core.lost:
        log.warning("replica %d does not vote until it has recovered: %s", me, started.replica.core.lost)
    return await _until_told(node, started, me, entry.admin)


def _own_key(config: ClusterConfig, me: int) -> PrivateKey:
    path = config.replica_key_path(me)
    key = read_private_key(path)
    if key.public != config.replicas[me].key:
        raise ConfigError(f"{path} is not the private key of replica[{me}].key in {config.path}; copy that one")
    return key


async def _until_told(node: Node, started: Started, me: int, admin: Address) -> int | None:
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.unfreeze()  # an earlier life
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run, admin)
                status = started.replica.status()
                log.info("replica %d is up: view %d, executed %d", me, status.view, status.last_executed)
                number = await _told(signals, node.again)
                if number is not None:
                    # SIGTERM stops one replica while the others go on; Ctrl-C, and the end of `pbft up`, stop all of
                    # them, and a view change would only be in the way.
                    await node.drain(resign=number == signal.SIGTERM)
                nursery.cancel_scope.cancel()
    finally:
        complete = node.close()
    if number is None:
        node.disk.end()
        return None
    log.info("replica %d stopped%s", me, "" if complete else "; not everything reached the disk")
    return 0


async def _told(signals: AsyncIterator[int], again: trio.Event) -> int | None:
    """The signal that ends it all; None if the replica has to begin anew."""
    found: list[int] = []
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            found.append(await anext(signals))
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        await again.wait()
        nursery.cancel_scope.cancel()
    return found[0] if found else None
