"""The trio shell of one replica: sockets, clock, threads and signals around the pure `Host`.

Decides nothing of the protocol. One sweep: what the sockets hold is received, `Host.flush` carries out what that
causes, everything queued leaves in one go. Results of the executor, syncs of the log and ticks are sweeps too.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import trio

from pbft import __version__
from pbft.admin import serve_status
from pbft.authentication import KeyAuthentication, signer
from pbft.batch import ClientRequest
from pbft.config import is_client
from pbft.config_file import Address, ClusterConfig
from pbft.crypto import AuthenticatorKey, HandshakeConfig, PrivateKey, PublicKey, SigningIdentity, read_private_key
from pbft.execution.results import Executed
from pbft.executor_thread import ExecutorThread
from pbft.host import Host, Ports
from pbft.messages import Body, Message, Reply, Stable, encode
from pbft.misbehaviour import MISBEHAVIOURS, Misbehaviour
from pbft.protocol.core import Refused
from pbft.protocol.effects import ALL, Evidence
from pbft.startup import Started, start_replica
from pbft.transport import Hub, Limits, Link

log = logging.getLogger("pbft.node")

TICK = 0.02
"""Seconds between two ticks of the core."""

_BULK = 16 << 10
"""Messages above this size give way to smaller ones on a link."""

_DRAIN = 2.0
"""Seconds that a clean stop waits for what is in flight."""

_ROUTES = 4096
_LOG_AGAIN = 60.0


class Node:
    """One replica as a process sees it."""

    def __init__(
        self,
        config: ClusterConfig,
        me: int,
        key: PrivateKey,
        started: Started,
        *,
        listen: Address,
        peers: Mapping[int, Address],
        volatile: bool,
        misbehaviour: Misbehaviour | None,
        token: trio.lowlevel.TrioToken,
    ) -> None:
        group = config.group
        self._group = group
        self._me = me
        self._others = tuple(i for i in range(len(group.replicas)) if i != me)
        self._volatile = volatile
        self._misbehaviour = misbehaviour
        self._started = started
        self._token = token
        self._birth = time.monotonic()
        self._authentication = KeyAuthentication(group, me)
        self._authentication.now = self._birth
        for client, old in started.replica.core.log.client_keys.items():
            for key_id, raw in old.items():
                self._authentication.add_old_key(client, AuthenticatorKey(key_id, raw))
        self._executor = ExecutorThread(started.executor, group.tunables.checkpoint_interval, self.wake)
        self._routes: dict[tuple[int, int], Link] = {}
        self._checkpoint_due = self._birth + group.tunables.durable_checkpoint_interval
        self._log_bytes = 0
        self._writing: int = 0
        self._to_write: trio.MemorySendChannel[int] | None = None
        self._logged: dict[tuple[int, str], tuple[float, int]] = {}
        self._lag_max = 0.0
        self._disk_error: OSError | None = None
        ports = Ports(
            log=started.log,
            send=self._send if misbehaviour is None else self._send_wrongly,
            execute=self._executor.submit,
            answer=self._answer,
            stable=self._on_stable,
            evidence=self._on_evidence,
        )
        self.host = Host(started.replica, self._authentication, ports)
        identity = SigningIdentity(key, group.cluster, me, 0)
        keys = [PublicKey(raw) for raw in group.replicas]
        clients = {principal: PublicKey(raw) for principal, raw in group.clients.items()}
        handshake = HandshakeConfig(
            cluster=group.cluster,
            epoch=group.epoch,
            principal=me,
            identity=identity,
            instance=os.urandom(16),
            lookup=lambda p: clients.get(p) if is_client(p) else keys[p] if p < len(keys) else None,
            fields=group.shared_fields(),
        )
        t = group.tunables
        message_max = max(t.batch_max_bytes, t.result_max_bytes * 2, t.operation_max_bytes) * 2 + (1 << 20)
        heartbeat = t.heartbeat_interval / 1000
        limits = Limits(
            message_max_bytes=message_max,
            queue_max_bytes=max(64 << 20, 2 * message_max),
            client_queue_max_bytes=max(16 << 20, 2 * message_max),
            heartbeat_interval=heartbeat,
            dead_after=max(3.0, 6 * heartbeat),
        )
        self.hub = Hub(
            handshake,
            self,
            listen=(listen.host, listen.port),
            peers={i: (a.host, a.port) for i, a in peers.items() if i != me},
            limits=limits,
        )

    # ---- pbft.transport.Receiver

    def on_message(self, link: Link, body: bytes) -> None:
        """An authenticated message."""
        sender = link.principal
        inbound = self.host.inbound
        self.host.receive(sender, body)
        if is_client(sender) and inbound.last_request is not None:
            route = inbound.last_request
            inbound.last_request = None
            if self._routes.get(route) is not link:
                while len(self._routes) >= _ROUTES:
                    del self._routes[next(iter(self._routes))]
                self._routes[route] = link

    def on_link_up(self, link: Link) -> None:
        """A replica is told what is missing here; a client's key is taken into the ring."""
        if is_client(link.principal):
            self._add_key(link)
        else:
            self.host.replica.on_peer_up(link.principal)

    def on_link_rekeyed(self, link: Link) -> None:
        """The link has new keys."""
        if is_client(link.principal):
            self._add_key(link)
        else:
            self.host.replica.on_keys_ended(link.principal)

    def _add_key(self, link: Link) -> None:
        key = link.session.newest_authenticator_key
        self._authentication.add_key(link.principal, key)
        self.host.replica.on_client_key(link.principal, key.key_id, key.key)

    def on_link_down(self, link: Link, reason: str) -> None:
        """Requests that the link authenticated stay valid for a moment: others may relay them still (rule 1.18)."""
        if is_client(link.principal):
            self._authentication.retire_key(link.principal, link.session.newest_authenticator_key)
            for route in [route for route, target in self._routes.items() if target is link]:
                del self._routes[route]

    def on_sweep_end(self) -> None:
        """Everything that was ready has been delivered."""
        self._set_time()
        self.host.flush()

    # ---- other sweeps

    def wake(self) -> None:
        """Called in any thread: results of the executor or the log wait."""
        self._token.run_sync_soon(self._collect, idempotent=True)

    def on_durable(self, position: int) -> None:
        """Called in the log's thread."""
        self.wake()

    def on_disk_error(self, error: OSError) -> None:
        """Called in the log's thread: nothing is durable any more."""
        self._disk_error = error
        self.wake()

    def _collect(self) -> None:
        self._set_time()
        host = self.host
        if self._disk_error is not None:
            host.replica.core.halt(f"the disk failed ({self._disk_error}); repair it and start this replica again")
        durable = self._started.log.durable_position
        if durable > host.replica.core.outbox.durable:
            host.durable(durable)
        for result in self._executor.collect():
            if isinstance(result, Executed):
                host.executed(result)
            else:
                host.answered(result)
        host.flush()
        self.hub.flush()

    async def _tick(self) -> None:
        last = time.monotonic()
        next_second = last
        while True:
            await trio.sleep(TICK)
            now = time.monotonic()
            self._lag_max = max(self._lag_max, now - last - TICK)
            last = now
            self._set_time()
            self.host.tick()
            self._collect()
            if now >= next_second:
                next_second = now + 1.0
                self._authentication.expire()
                self._log_refusals(now)

    def _set_time(self) -> None:
        now = time.monotonic()
        self._authentication.now = now
        self.host.set_time(now, time.time_ns() // 1000)

    # ---- ports

    def _send(self, to: int, body: bytes, message: Message) -> None:
        bulk = len(body) > _BULK or isinstance(message, (Body, Stable))
        if to == ALL:
            self.hub.multicast(self._others, body, bulk)
        elif isinstance(message, Reply) and (link := self._routes.get((to, message.session))) is not None:
            link.send(body, bulk)
        else:
            self.hub.send(to, body, bulk)

    def _send_wrongly(self, to: int, body: bytes, message: Message) -> None:
        assert self._misbehaviour is not None
        for receiver in self._others if to == ALL else (to,):
            for other, changed in self._misbehaviour.outgoing(receiver, message):
                self._send(other, body if changed is message else encode(changed), changed)

    def _answer(self, request: ClientRequest) -> None:
        result = self._executor.answer(request)
        if result is not None:
            self.host.answered(result)

    def _on_evidence(self, evidence: Evidence) -> None:
        log.warning("replica %d: %s by %d: %s", self._me, evidence.kind, evidence.culprit, evidence.text)

    def _log_refusals(self, now: float) -> None:
        for (sender, reason), count in self.host.replica.core.refused.items():
            when, logged = self._logged.get((sender, reason), (-_LOG_AGAIN, 0))
            if reason == Refused.BELOW_WINDOW:
                continue  # a vote that came after the certificate was complete: the normal case
            if count > logged and now - when >= _LOG_AGAIN:
                log.info("replica %d: refused %d from %d: %s", self._me, count - logged, sender, reason)
                self._logged[sender, reason] = (now, count)

    # ---- durable checkpoints (rule 1.6)

    def _on_stable(self, number: int) -> None:
        if self._started.store is None or self._writing or self._to_write is None:
            return
        t = self._group.tunables
        position = self.host.replica.core.outbox.position
        if time.monotonic() < self._checkpoint_due and self._log_size() < t.durable_checkpoint_bytes:
            return
        if self._executor.snapshot(number) is None or position == 0:
            return
        self._writing = number
        self._to_write.send_nowait(number)

    def _log_size(self) -> int:
        return self.host.bytes_logged - self._log_bytes

    async def _write_checkpoints(self, numbers: trio.MemoryReceiveChannel[int]) -> None:
        store = self._started.store
        assert store is not None
        async for number in numbers:
            snapshot = self._executor.snapshot(number)
            self._log_bytes = self.host.bytes_logged
            self._checkpoint_due = time.monotonic() + self._group.tunables.durable_checkpoint_interval
            if snapshot is not None:
                try:
                    await trio.to_thread.run_sync(
                        lambda s=snapshot, n=number: store.write(n, s.meta(), s.chunks())  # type: ignore[misc]
                    )
                except OSError as error:
                    log.error("replica %d: no durable checkpoint %d: %s", self._me, number, error)
                else:
                    self.host.checkpoint_durable(number)
                    self._collect()
            self._writing = 0

    # ---- looking

    def status(self) -> dict[str, object]:
        """What `pbft status` shows of this replica."""
        core = self.host.replica.status()
        refused: dict[str, int] = {}
        for (sender, reason), count in self.host.replica.core.refused.items():
            key = f"{'client' if is_client(sender) else sender}:{reason}"
            refused[key] = refused.get(key, 0) + count
        return {
            **asdict(core),
            "reachable": True,
            "connected_peers": sum(1 for p in self.hub.connected() if not is_client(p)),
            "recovering": bool(core.halted) or core.behind,
            "uptime_s": round(time.monotonic() - self._birth, 1),
            "volatile": self._volatile,
            "adversary": self._misbehaviour.name if self._misbehaviour else None,
            "version": __version__,
            "loop_lag_ms_max": round(self._lag_max * 1000, 1),
            "counters": refused,
            "cpu_s": round(time.process_time(), 3),
        }

    # ---- running

    async def run(self, admin: Address, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. Raises OSError if an address cannot be bound."""
        async with trio.open_nursery() as nursery:
            if self._started.store is not None:
                self._to_write, numbers = trio.open_memory_channel[int](1)
                nursery.start_soon(self._write_checkpoints, numbers)
            await nursery.start(serve_status, admin.host, admin.port, self.status)
            nursery.start_soon(self._tick)
            await nursery.start(self.hub.run)
            self._collect()
            task_status.started()

    async def drain(self) -> None:
        """Take nothing new; let what is in flight end, within a bound."""
        self.hub.stop_accepting()
        replica = self.host.replica
        with trio.move_on_after(_DRAIN):
            while (
                self._executor.outstanding or replica.core.outbox.durable < replica.core.outbox.position
            ) and not self._disk_error:
                await trio.sleep(TICK)

    def close(self) -> bool:
        """Flush the log and release the directory; whether everything is on disk. Blocks for a moment."""
        self._executor.close()
        complete = self._started.log.close(1.0)
        self._started.directory.close()
        return complete


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
    """One replica until SIGTERM or SIGINT; returns the exit code.

    Raises `pbft.config.ConfigError`, `pbft.crypto.KeyFileError`, `pbft.storage.StorageError` and OSError, each with one
    sentence for the operator.
    """
    from pbft.cli.applications import load_application

    application = load_application(config.group.app, config.path.parent)
    key = read_private_key(config.replica_key_path(me))
    identity = SigningIdentity(key, config.group.cluster, me, 0)
    misbehaviour = MISBEHAVIOURS[adversary](me, config.group, random.Random(me)) if adversary else None
    token = trio.lowlevel.current_trio_token()
    node: Node | None = None

    def on_durable(position: int) -> None:
        if node is not None:
            node.on_durable(position)

    def on_disk_error(error: OSError) -> None:
        if node is not None:
            node.on_disk_error(error)

    started = await trio.to_thread.run_sync(
        lambda: start_replica(
            config.group,
            me,
            application,
            signer(identity),
            os.urandom(16),
            data=data or config.data_directory(me),
            token=config.token_path(me),
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
    )
    if misbehaviour is not None:
        log.warning("replica %d MISBEHAVES ON PURPOSE: %s", me, adversary)
    if started.replica.core.halted:
        log.warning("replica %d does not vote: %s", me, started.replica.core.halted)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run, entry.admin)
                status = started.replica.status()
                log.info("replica %d is up: view %d, executed %d", me, status.view, status.last_executed)
                async for _ in signals:
                    break
                await node.drain()
                nursery.cancel_scope.cancel()
    finally:
        complete = node.close()
    log.info("replica %d stopped%s", me, "" if complete else "; not everything reached the disk")
    return 0
