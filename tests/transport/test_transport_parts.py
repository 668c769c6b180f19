"""Queues, frames, the choice between two links, counters, limits: each alone."""

from __future__ import annotations

import itertools
import logging
import selectors
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pbft.crypto import Initiator, Responder, Session
from pbft.transport import Limits, Link, LinkStatistics, TransportError, framing
from pbft.transport.link import TcpLink
from pbft.transport.queues import SendQueue
from pbft.transport.registry import Registry, refuse_newer
from pbft.transport.statistics import QuietLog, Tally

CLIENT = 1 << 63


@given(st.lists(st.integers(0, 50), max_size=60))
def test_queue_keeps_the_newest_within_its_bounds(sizes: list[int]) -> None:
    """A queue holds the longest run of newest messages that fits, and counts what it dropped."""
    queue = SendQueue(max_bytes=100, max_messages=5, message_max_bytes=100)
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
    for body in bodies:
        queue.push(body)
    kept = list(queue.messages)
    assert queue.bytes == sum(map(len, kept)) <= 100
    assert len(kept) <= 5
    assert kept == bodies[len(bodies) - len(kept) :]
    assert queue.dropped == len(bodies) - len(kept)
    if len(kept) < min(5, len(bodies)):
        assert queue.bytes + len(bodies[-len(kept) - 1]) > 100


def test_message_that_is_too_long_displaces_nothing() -> None:
    """What no peer would take is dropped itself."""
    queue = SendQueue(max_bytes=20, max_messages=5, message_max_bytes=10)
    assert queue.push(b"small")
    assert not queue.push(bytes(11))
    assert (list(queue.messages), queue.dropped) == ([b"small"], 1)


@given(st.integers(0, 300_000))
def test_pieces_of_a_message_make_the_message(size: int) -> None:
    """Pieces are at most one fragment, and only the last says that the message ends."""
    queue = SendQueue(1 << 20, 10, 1 << 20)
    body = bytes(size)
    queue.push(body)
    pieces = [queue.take()]
    while pieces[-1][1]:
        pieces.append(queue.take())
    assert b"".join(piece for piece, _ in pieces) == body
    assert all(len(piece) <= framing.FRAGMENT_MAX_BYTES for piece, _ in pieces)
    assert not queue.messages and queue.partial is None and queue.bytes == 0


class Owner:
    """The hub of a link alone."""

    def __init__(self, handshake: Any) -> None:
        self.limits = Limits()
        self.handshake = handshake
        self.selector = selectors.DefaultSelector()
        self.now = 0.0
        self.clock = lambda: 0.0
        self.read_buffer = memoryview(bytearray(10))
        self.unflushed: list[TcpLink] = []
        self.receiver = self
        self.bodies: list[bytes] = []

    def on_message(self, link: Link, body: bytes) -> None:
        self.bodies.append(body)


@pytest.fixture
def sealed_bodies(handshakes: Any) -> Iterator[tuple[list[bytes], bytes, Callable[[], tuple[TcpLink, Owner]]]]:
    """Bodies, the bytes of a link that carries them, and a maker of fresh links that can read these."""
    initiator = Initiator(handshakes(0), 1)
    responder = Responder(handshakes(1))
    second = responder.receive_hello(initiator.hello())
    third, session = initiator.receive(second)
    receiving = responder.finish(third)
    bodies = [b"", b"x", bytes(300), bytes(70_000), b"last"]
    with socket.socket() as sock, ExitStack() as stack:

        def link_of(session: Session) -> tuple[TcpLink, Owner]:
            owner = Owner(handshakes(0))
            stack.callback(owner.selector.close)
            link = TcpLink(owner, sock, session, dialed=False)  # type: ignore[arg-type]
            link.come_up()
            return link, owner

        sender, _ = link_of(session)
        for body in bodies:
            sender.send(body)
        wire = sender._outbox.gather(0.0)
        yield bodies, wire, lambda: link_of(Session(receiving.context, receiving._keys))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(cuts=st.lists(st.integers(0, 71_000), max_size=20))
def test_it_does_not_matter_how_the_stream_is_cut(sealed_bodies: Any, cuts: list[int]) -> None:
    """However the bytes of a link arrive in pieces, the same messages come out."""
    bodies, wire, new_link = sealed_bodies
    link, owner = new_link()
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in itertools.pairwise(edges):
        link.feed(link._rest + wire[start:end])
    assert owner.bodies == bodies


@given(st.binary(max_size=200))
def test_any_bytes_are_a_plain_frame_or_are_not(data: bytes) -> None:
    """Splitting what a stranger sent gives a frame, a reason, or the wish for more; it never raises."""
    found = framing.split_plain_frame(data)
    if isinstance(found, tuple):
        kind, body, rest = found
        assert framing.plain_frame(kind, body) + rest == data
    else:
        assert found in (None, "bad-kind", "bad-length")


@dataclass(eq=False)
class End:
    """One end of a connection as the registry sees it."""

    principal: int
    instance: bytes
    dialed: bool
    incarnation: int = 0
    last_received: float = 0.0


@pytest.mark.scenario("F12")
@pytest.mark.parametrize("finish_order", list(itertools.product([(0, 1), (1, 0)], repeat=2)))
def test_both_sides_keep_the_link_dialed_by_the_lower_id(
    finish_order: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    """Of two links opened at the same time both sides keep the same, whichever is complete first where."""
    lower = [End(7, b"b", dialed=True), End(7, b"b", dialed=False)]
    higher = [End(3, b"a", dialed=False), End(3, b"a", dialed=True)]
    kept = []
    for own, ends, order in ((3, lower, finish_order[0]), (7, higher, finish_order[1])):
        registry: Registry[End] = Registry(own, Limits(), 10)
        for index in order:
            verdict = registry.admit(ends[index])
            if not isinstance(verdict, str):
                for old in verdict:
                    registry.remove(old)
                registry.add(ends[index])
        kept.append([ends.index(end) for end in registry.all()])
    assert kept == [[0], [0]]


def test_newer_process_replaces_and_older_incarnation_does_not() -> None:
    """Another process takes over whoever dialed; a link of an older incarnation never does."""
    old = End(1, b"old", dialed=True)
    assert refuse_newer(0, old, End(1, b"new", dialed=False)) is None
    assert refuse_newer(0, End(1, b"x", True, 5), End(1, b"y", True, 4)) == "older-incarnation"
    assert refuse_newer(0, End(1, b"x", True, 5), End(1, b"y", False, 6)) is None
    assert refuse_newer(0, old, End(1, b"old", dialed=True)) is None
    assert refuse_newer(0, old, End(1, b"old", dialed=False)) == "duplicate"


def test_client_limits_of_the_registry() -> None:
    """One client displaces its own idlest link. When there are as many as may be, who has most gives its idlest one,
    and one who would then have as many is turned away."""
    registry: Registry[End] = Registry(0, Limits(links_per_client_max=2), client_links_max=3)
    first, second = End(CLIENT, b"1", False, 0, 5.0), End(CLIENT, b"2", False, 0, 1.0)
    for end in (first, second, End(CLIENT + 1, b"1", False)):
        assert registry.admit(end) == []
        registry.add(end)
    assert registry.admit(End(CLIENT, b"3", False)) == [second]
    assert registry.admit(End(CLIENT, b"1", False)) == [first]
    assert registry.admit(End(CLIENT + 2, b"1", False)) == [second]
    assert registry.admit(End(CLIENT + 1, b"2", False)) == "busy"
    assert registry.remove(first) and not registry.remove(first)
    assert registry.admit(End(CLIENT + 2, b"1", False)) == []
    assert registry.client_links == 2


@pytest.mark.scenario("F21")
def test_hour_with_a_dead_peer_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A line a second for an hour becomes a dozen, which say how many were left out; others are not held back."""
    quiet = QuietLog(interval=300.0, burst=3)
    with caplog.at_level(logging.INFO, "pbft.transport"):
        for second in range(3600):
            quiet.write(logging.WARNING, float(second), 1, "dial-failed", "cannot connect")
        assert 10 <= len(caplog.records) <= 16
        assert "299 more like this" in caplog.records[-1].getMessage()
        assert quiet.write(logging.WARNING, 3600.0, 2, "dial-failed", "cannot connect")


def test_tally_is_bounded_and_keeps_the_sums() -> None:
    """Counters of peers unseen for long are added to nobody's, so that their number is bounded."""
    tally = Tally()
    for principal in range(10_000):
        tally.refuse(principal, "bad-mac")
    refusals = tally.refusals()
    assert len(refusals) <= 8_193
    assert sum(refusals.values()) == 10_000
    for principal in range(10_000):
        tally.add_link(LinkStatistics(principal, b"", True, 1.0, None, 1, 1, 1, 1, 0, 0, 0, 0))
    assert len(tally.peers([])) <= 8_192


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat_interval": 0.0},
        {"client_queue_max_bytes": 1000},
        {"dead_after": 0.6},
        {"dial_backoff_max": 0.01},
        {"links_per_client_max": -1},
    ],
)
def test_limits_that_do_not_fit_are_refused(wrong: dict[str, float]) -> None:
    """Limits that would close live links or hold no message are refused when they are made."""
    with pytest.raises(TransportError):
        Limits(**wrong)  # type: ignore[arg-type]


def test_small_fragments_take_what_they_are_long() -> None:
    """A list of them would take twenty times that, and nobody would count it."""
    parts = framing.Reassembly(1 << 20)
    tracemalloc.start()
    while parts.add(b"ab"):
        pass
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert parts.held == 1 << 20 and taken < 3 << 20
