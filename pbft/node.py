"""The trio shell of one replica: sockets, clock, threads and signals around the pure `Host`.

Decides nothing of the protocol. One sweep: what the sockets hold is received, `Host.flush` carries out what that
causes, everything queued leaves in one go. Results of the executor, syncs of the log and ticks are sweeps too.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import trio

from pbft import __version__
from pbft.admin import serve_status
from pbft.authentication import KeyAuthentication
from pbft.batch import ClientRequest
from pbft.config import is_client
from pbft.config_file import Address, ClusterConfig
from pbft.crypto import AuthenticatorKey, HandshakeConfig, PrivateKey, PublicKey, SigningIdentity
from pbft.disk_watch import DiskWatch
from pbft.durable_checkpoints import DurableCheckpoints
from pbft.execution.results import Executed
from pbft.executor_thread import ExecutorThread
from pbft.host import Host, Ports
from pbft.messages import Body, Message, Reply, Stable, StatePiece, encode
from pbft.misbehaviour import Adversary, Late
from pbft.node_reports import Reports
from pbft.piece_server import PieceServer
from pbft.protocol.effects import ALL
from pbft.protocol.inbound import BURDENS
from pbft.protocol.suspicion import Conditions
from pbft.scrubber import Scrubber
from pbft.signature_desk import SignatureDesk
from pbft.startup import Started
from pbft.state_installer import StateInstaller
from pbft.storage.files import RealDirectory
from pbft.transport import Hub, Limits, Link

TICK = 0.02
"""Seconds between two ticks of the core."""

_BULK = 16 << 10
"""Messages above this size give way to smaller ones on a link."""

_DRAIN = 2.0
_REPAIRS = 8
"""Sentences about repairs that `status` shows."""
"""Seconds that a clean stop waits for what is in flight."""

_LAG_TURN = 5.0
"""Seconds after which an old lag of the loop is forgotten, or twice that."""

log = logging.getLogger("pbft.node")

_ROUTES = 4096

_REST = 0.05
"""Seconds for which nothing is taken from a client that sent more than it may, or what is not authentic."""


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
        misbehaviour: Adversary | None,
        token: trio.lowlevel.TrioToken,
        evidence: Path | None = None,
        repairs: list[str] | None = None,
    ) -> None:
        """`evidence`: the folder in which what proves misbehaviour is kept; None keeps none. `repairs`: what was mended
        in earlier lives of this process; it grows here."""
        group = config.group
        self._group = group
        self._me = me
        self._others = tuple(i for i in range(len(group.replicas)) if i != me)
        self._volatile = volatile
        self._misbehaviour = misbehaviour
        self._late = Late()
        self._started = started
        self._token = token
        self._birth = time.monotonic()
        self._authentication = KeyAuthentication(group, me)
        self._authentication.now = self._birth
        for client, old in started.replica.core.log.client_keys.items():
            for key_id, raw in old.items():
                self._authentication.add_old_key(client, AuthenticatorKey(key_id, raw))
        interval, window = group.tunables.checkpoint_interval, group.tunables.log_window
        self._executor = ExecutorThread(started.executor, interval, self.wake, max(4, window // interval + 2))
        self._executor.shadow = started.shadow
        self._routes: dict[tuple[int, int], Link] = {}
        self._reports = Reports(group, me, evidence)
        self._lag = [0.0, 0.0]
        """Longest time that the loop was held, in seconds: since the last turn, and between the two before that."""
        self._next_turn = self._birth
        self._round_trip = 0.0
        self._repairs = [] if repairs is None else repairs
        self.again = trio.Event()
        """This life is over: its owner stops it, and starts the replica once more from what its disk holds, if `disk`
        has nothing against it."""
        folder = started.directory.directory.path if isinstance(started.directory.directory, RealDirectory) else None
        self.disk = DiskWatch(me, None if volatile else folder, self.again)
        self._pieces = PieceServer()
        ports = Ports(
            log=started.log,
            send=self._send if misbehaviour is None else self._send_wrongly,
            execute=self._executor.submit,
            answer=self._answer,
            stable=lambda number: self._checkpoints.on_stable(number),
            evidence=self._reports.accuse,
            kept=self._executor.snapshot,
            prepare=lambda: self._installer.prepare(),
            serve=self._pieces.serve,
            keep=lambda entry: self._installer.keep(entry),
            install=lambda fetched: self._installer.install(fetched),
            reborn=lambda: self._rebirth.set(),
        )
        self._rebirth = trio.Event()
        """The log holds all that binds a new incarnation: it is to be noted in the data directory. Rule 1.7."""
        wants_more = started.replica.requests.wants_more
        self._desk = SignatureDesk(self._authentication, self._on_verified, wants_more)
        self._authentication.defers = True
        self.host = Host(started.replica, self._authentication, ports, self._desk.submit)
        writing = trio.Lock()
        self._checkpoints = DurableCheckpoints(
            me, group.tunables, self.host, self._executor, started.store, writing, started.replayed
        )
        self._installer = StateInstaller(
            me,
            started.make_executor,
            self._executor,
            started.store,
            writing,
            self._begin_anew,
            started.journal,
            started.paging,
        )
        self._scrubber = Scrubber(me, group.tunables, started, self._executor, self._checkpoints, self._begin_anew)
        self.hub = self._make_hub(key, listen, peers)

    def _make_hub(self, key: PrivateKey, listen: Address, peers: Mapping[int, Address]) -> Hub:
        group, me = self._group, self._me
        keys = [PublicKey(raw) for raw in group.replicas]
        clients = {principal: PublicKey(raw) for principal, raw in group.clients.items()}
        handshake = HandshakeConfig(
            cluster=group.cluster,
            epoch=group.epoch,
            principal=me,
            identity=SigningIdentity(key, group.cluster, me, self.host.replica.core.incarnation),
            instance=os.urandom(16),
            lookup=lambda p: clients.get(p) if is_client(p) else keys[p] if p < len(keys) else None,
            fields=group.shared_fields(),
        )
        t = group.tunables
        message_max = group.message_max_bytes
        heartbeat = t.heartbeat_interval / 1000
        limits = Limits(
            message_max_bytes=message_max,
            client_message_max_bytes=2 * t.operation_max_bytes + (64 << 10),
            queue_max_bytes=max(64 << 20, 2 * message_max),
            client_queue_max_bytes=max(16 << 20, 2 * message_max),
            heartbeat_interval=heartbeat,
            dead_after=max(3.0, 6 * heartbeat),
        )
        return Hub(
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
        if self._misbehaviour is not None and not self._misbehaviour.hears(sender, body):
            return
        incarnation = None if is_client(sender) else link.incarnation
        if self.host.receive(sender, body, incarnation) in BURDENS and is_client(sender):
            link.rest(_REST)
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
        self._authentication.add_key(link.principal, link.session.newest_authenticator_key)

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
        self.disk.on_error(error)
        self.wake()

    def _collect(self) -> None:
        self._set_time()
        host = self.host
        if trouble := self.disk.trouble:
            host.replica.core.halt(trouble)
        durable = self._started.log.durable_position
        if durable > host.replica.core.outbox.durable:
            host.durable(durable)
        for result in self._executor.collect():
            if isinstance(result, Executed):
                host.executed(result)
            else:
                host.answered(result)
        host.flush()
        self._desk.look_again()
        self.hub.flush()

    def _on_verified(self, verdicts: list[tuple[ClientRequest, bool]]) -> None:
        self._set_time()
        for sender in filter(is_client, self.host.inbound.on_verified(verdicts)):
            for link in self.hub.links(sender):
                link.rest(_REST)
        self._collect()

    def _begin_anew(self, repaired: str) -> None:
        """A state that was mended is on the disk: whatever this process made of the wrong one goes."""
        log.error("replica %d: %s", self._me, repaired)
        self._repairs.append(repaired)
        del self._repairs[:-_REPAIRS]
        self.again.set()

    async def _declare_recovered(self) -> None:
        """When the log holds all that binds a new incarnation, note in the data directory that the past is known again;
        then the links begin anew, in that incarnation, and this replica votes."""
        while True:
            await self._rebirth.wait()
            self._rebirth = trio.Event()
            try:
                if not self._volatile:
                    await trio.to_thread.run_sync(self._started.directory.declare_recovered)
            except OSError as error:
                log.error("replica %d: not recovered yet, for that cannot be noted: %s", self._me, error)
                await trio.sleep(1.0)
                continue
            self._set_time()
            if self.host.declared():
                incarnation = self.host.replica.core.incarnation
                log.warning("replica %d has recovered: it votes, in incarnation %d", self._me, incarnation)
                self.hub.renew(self.hub.handshake.identity.for_incarnation(incarnation))
            self._collect()

    async def _tick(self) -> None:
        last = time.monotonic()
        next_second = last
        while True:
            await trio.sleep(TICK)
            now = time.monotonic()
            self._lag[0] = max(self._lag[0], now - last - TICK)
            last = now
            self._set_time()
            self.host.tick(Conditions(random.random(), self._round_trip))
            self._send_late()
            self._collect()
            self._reports.views(self.host.replica.core, self.host.replica.suspicion)
            if now >= next_second:
                next_second = now + 1.0
                self._authentication.expire()
                self._round_trip = self._measure_round_trip()
                if now >= self._next_turn:
                    self._next_turn = now + _LAG_TURN
                    self._lag = [0.0, self._lag[0]]
                self._reports.refusals(now, self.host.replica.core.refused)

    def _measure_round_trip(self) -> float:
        """Heartbeat round trip to the q-th fastest replica, this one being the fastest (rule 1.11)."""
        times = sorted(link.rtt for i in self._others for link in self.hub.links(i)[:1] if link.rtt is not None)
        needed = self._group.quorums.strong - 1
        return times[needed - 1] if len(times) >= needed else 0.0

    def _set_time(self) -> None:
        now = time.monotonic()
        self._authentication.now = now
        self.host.set_time(now, time.time_ns() // 1000)

    # ---- ports

    def _send(self, to: int, body: bytes, message: Message) -> None:
        bulk = len(body) > _BULK or isinstance(message, (Body, Stable, StatePiece))
        if to == ALL:
            self.hub.multicast(self._others, body, bulk)
        elif isinstance(message, Reply) and (link := self._routes.get((to, message.session))) is not None:
            link.send(body, bulk)
        else:
            self.hub.send(to, body, bulk)

    def _send_wrongly(self, to: int, body: bytes, message: Message) -> None:
        assert self._misbehaviour is not None
        for receiver in self._others if to == ALL else (to,):
            for sent in self._misbehaviour.outgoing(receiver, message):
                if sent.delay:
                    self._late.put(time.monotonic() + sent.delay, sent)
                else:
                    self._send(sent.to, body if sent.message is message else encode(sent.message), sent.message)

    def _send_late(self) -> None:
        for to, message, _ in self._late.take(time.monotonic()):
            self._send(to, encode(message), message)

    def _answer(self, request: ClientRequest) -> None:
        result = self._executor.answer(request)
        if result is not None:
            self.host.answered(result)

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
            "repairs": [*self._repairs, *self._scrubber.found],
            "scrubbed": self._scrubber.rounds,
            "fetched_bytes": self.host.transfer.fetched,
            "executed_twice": self._executed_twice(),
            "uptime_s": round(time.monotonic() - self._birth, 1),
            "volatile": self._volatile,
            "adversary": self._misbehaviour.name if self._misbehaviour else None,
            "version": __version__,
            "transfer": progress._asdict() if (progress := self.host.transfer.progress) else None,
            "loop_lag_ms_max": round(max(self._lag) * 1000, 1),
            "counters": refused,
            "accusations": self._reports.accusations,
            "cpu_s": round(time.process_time(), 3),
            "pid": os.getpid(),
            "cluster": self._group.cluster.hex(),
        }

    def _executed_twice(self) -> dict[str, object] | None:
        shadow = self._executor.shadow
        if shadow is None:
            return None
        return {"batches": shadow.compared, "differing": shadow.differing, "last": shadow.last}

    # ---- running

    async def run(self, admin: Address, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. Raises `pbft.transport.ListenError` if an address cannot be bound."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._checkpoints.run)
            nursery.start_soon(self._installer.run, self.host, self._collect)
            nursery.start_soon(self._installer.write_journal)
            nursery.start_soon(self._pieces.run, self.host, self._collect)
            nursery.start_soon(self._desk.run)
            nursery.start_soon(self._declare_recovered)
            nursery.start_soon(self._scrubber.run)
            nursery.start_soon(self.disk.run)
            nursery.start_soon(self._reports.keep_evidence)
            await nursery.start(serve_status, admin.host, admin.port, self.status, self._checkpoints.write_soon)
            nursery.start_soon(self._tick)
            await nursery.start(self.hub.run)
            self._collect()
            task_status.started()

    async def drain(self, resign: bool = True) -> None:
        """Take nothing new; a primary resigns; let what is in flight end, within a bound."""
        self.hub.stop_accepting()
        replica = self.host.replica
        if resign:
            replica.resign()
            self._collect()
        with trio.move_on_after(_DRAIN):
            while (
                self._executor.outstanding or replica.core.outbox.durable < replica.core.outbox.position
            ) and not self.disk.trouble:
                await trio.sleep(TICK)

    def close(self) -> bool:
        """Flush the log and release the directory; whether everything is on disk. Blocks for a moment."""
        self._executor.close()
        complete = self._started.log.close(1.0)
        for file in (self._started.journal, self._started.pages):
            if file is not None:
                file.close()
        self._started.directory.close()
        return complete
