"""Requests that wait to be ordered: fair per client, bounded per client and in total. Rules 1.15, 1.17; 2.3, 4 #7.

Rules of this file: knows requests and nothing of replicas; who makes room for whom is decided here and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from pbft.batch import MAX_REQUESTS, ClientRequest

IN_FLIGHT = 8
"""Requests of one client in batches that have not executed, at most: twice what a `Client` has outstanding. One that
floods makes no batch costly in which others wait, too."""

_NONE: Mapping[int, int] = {}


class Queue:
    """Pending requests by client and digest; taken round-robin, one request per client and turn. When it is full, who
    holds most of it makes room: requests that no other replica can verify are never ordered and would stay."""

    def __init__(self, per_client: int, total: int, total_bytes: int) -> None:
        self._per_client, self._total, self._total_bytes = per_client, total, total_bytes
        self._by_client: dict[int, dict[bytes, ClientRequest]] = {}
        self._bytes_of: dict[int, int] = {}
        self._turns: deque[int] = deque()
        self.count = 0
        self.bytes = 0
        self.operations = 0

    def count_of(self, client: int) -> int:
        """Requests of one client."""
        return len(self._by_client.get(client, ()))

    def is_full_for(self, request: ClientRequest) -> bool:
        """Whether it would find no room, whoever made some."""
        if self.count_of(request.client) < self._per_client:
            return False
        return not request.is_signed or all(r.is_signed for r in self.of(request.client))

    def get(self, request: ClientRequest) -> ClientRequest | None:
        """The queued request with this digest."""
        return self._by_client.get(request.client, {}).get(request.digest)

    def add(self, request: ClientRequest, insistent: bool = False) -> list[ClientRequest] | None:
        """Queue a request; a signed copy replaces an unsigned one. Returns those that made room for it; None if a bound
        is reached and nobody holds more than its client. Where its client has no room left, a signed one takes the
        place of the newest unsigned one, an `insistent` one that of the newest, and is the next of that client."""
        mine = self._by_client.get(request.client, {})
        old = mine.get(request.digest)
        evicted: list[ClientRequest] = []
        if old is None:
            if len(mine) >= self._per_client:
                gives = (r for r in reversed(mine.values()) if insistent or request.is_signed > r.is_signed)
                if (victim := next(gives, None)) is None:
                    return None
                evicted.append(victim)
                self.remove(request.client, evicted[0].digest)
            while self.count >= self._total or self.bytes + request.size > self._total_bytes:
                victim = self._makes_room(request)
                if victim is None:
                    break
                self.remove(victim.client, victim.digest)
                evicted.append(victim)
            else:
                self._put(request)
                if insistent:
                    self.to_front(request)
                return evicted
            for victim in evicted:  # it was not enough
                self._put(victim)
            return None
        mine[request.digest] = request  # where the old copy stood, in its client's order and turn
        self.bytes += request.size - old.size
        self._bytes_of[request.client] += request.size - old.size
        return evicted

    def to_front(self, request: ClientRequest) -> None:
        """Let a queued request be its client's next."""
        mine = self._by_client[request.client]
        first = {request.digest: mine.pop(request.digest)}
        self._by_client[request.client] = first | mine

    def _put(self, request: ClientRequest) -> None:
        mine = self._by_client.get(request.client)
        if mine is None:
            mine = self._by_client[request.client] = {}
            self._turns.append(request.client)
        mine[request.digest] = request
        self.count += 1
        self.operations += len(request.operations) or 1
        self.bytes += request.size
        self._bytes_of[request.client] = self._bytes_of.get(request.client, 0) + request.size

    def _makes_room(self, request: ClientRequest) -> ClientRequest | None:
        """The newest request of the client that holds most of what is short, if that is more than this one's client
        would hold then; an unsigned one also if it is as much, for a signed one."""
        held, size = self._bytes_of, request.size
        if self.count >= self._total:
            held, size = {client: len(mine) for client, mine in self._by_client.items()}, 1
        client = max(held, key=held.__getitem__, default=request.client)
        victim = next(reversed(self._by_client.get(client, {}).values()), None)
        if victim is None or client == request.client:
            return None
        would_hold = held.get(request.client, 0) + size
        gains = request.is_signed and not victim.is_signed
        return victim if held[client] > would_hold or (gains and held[client] >= would_hold) else None

    def remove(self, client: int, digest: bytes) -> ClientRequest | None:
        """Take one request out, wherever it stands."""
        mine = self._by_client.get(client)
        found = mine.pop(digest, None) if mine else None
        if found is None:
            return None
        self.count -= 1
        self.bytes -= found.size
        self._bytes_of[client] -= found.size
        self.operations -= len(found.operations) or 1
        if not mine:
            self._forget_client(client)
        return found

    def take(
        self, max_bytes: int, ready: Callable[[ClientRequest], bool], in_flight: Mapping[int, int] = _NONE
    ) -> list[ClientRequest]:
        """Remove up to `max_bytes` of requests for which `ready` holds, one per client and turn, and no more than a
        batch holds. `in_flight`: how many of each client are in batches already."""
        taken: list[ClientRequest] = []
        skipped: set[bytes] = set()
        counts = dict(in_flight)
        idle = 0
        while idle < len(self._turns) and len(taken) < MAX_REQUESTS:
            client = self._turns[0]
            self._turns.rotate(-1)
            count = counts[client] = counts.get(client, 0) + 1
            request = self._next(client, skipped, ready) if count <= IN_FLIGHT else None
            if request is None:
                idle += 1
                continue
            if request.size > max_bytes:
                self._turns.rotate(1)  # it keeps its turn: else others fill every batch up to where it does not fit
                break
            idle = 0
            max_bytes -= request.size
            self.remove(client, request.digest)
            taken.append(request)
        return taken

    def _next(self, client: int, skipped: set[bytes], ready: Callable[[ClientRequest], bool]) -> ClientRequest | None:
        for digest, request in self._by_client[client].items():
            if digest not in skipped:
                if ready(request):
                    return request
                skipped.add(digest)
        return None

    def clients(self) -> Iterable[int]:
        """Who has something queued."""
        return self._by_client.keys()

    def of(self, client: int) -> Iterable[ClientRequest]:
        """What one client has queued, in its order."""
        return self._by_client.get(client, {}).values()

    def requests(self) -> list[ClientRequest]:
        """All queued requests, by client."""
        return [r for mine in self._by_client.values() for r in mine.values()]

    def _forget_client(self, client: int) -> None:
        del self._by_client[client], self._bytes_of[client]
        self._turns.remove(client)
