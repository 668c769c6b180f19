"""Which links there are, and which of two links with the same principal stays. Scenarios F12, E12."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from pbft.transport.interface import is_client
from pbft.transport.limits import Limits


class Candidate(Protocol):
    """What counts when two links are compared."""

    @property
    def principal(self) -> int:
        """The peer."""

    @property
    def instance(self) -> bytes:
        """The peer's process."""

    @property
    def incarnation(self) -> int:
        """Incarnation of the peer's key."""

    @property
    def dialed(self) -> bool:
        """Whether this side dialed."""

    @property
    def last_received(self) -> float:
        """When something last arrived."""


AnyLink = TypeVar("AnyLink", bound=Candidate)


def refuse_newer(own: int, existing: Candidate, newer: Candidate) -> str | None:
    """Why `newer` has to give way to `existing`, a link with the same replica; None if it replaces it.

    Both sides evaluate this, perhaps at different times, and must end with the same link:

    - an older incarnation never displaces a newer one; another process displaces the previous one, which is
      gone or about to be;
    - between the same processes, a side dials only when it knows no link, so of two links dialed by one side
      the newer is the one it believes in;
    - otherwise both dialed at the same time, and the link dialed by the lower id stays. It wins on both sides,
      whichever of the two was complete first.
    """
    if newer.incarnation != existing.incarnation:
        return "older-incarnation" if newer.incarnation < existing.incarnation else None
    if newer.instance != existing.instance or newer.dialed == existing.dialed:
        return None
    return None if newer.dialed == (own < newer.principal) else "duplicate"


class Registry(Generic[AnyLink]):
    """The links of one hub by principal: one per replica, several per client.

    Invariant: no empty lists in the table; `client_links` counts the links of clients.
    """

    def __init__(self, own: int, limits: Limits, client_links_max: int) -> None:
        self._own = own
        self._limits = limits
        self._client_links_max = client_links_max
        self._links: dict[int, list[AnyLink]] = {}
        self.client_links = 0

    def admit(self, newer: AnyLink) -> str | list[AnyLink]:
        """The links that must be closed for `newer`, or the reason why `newer` must be closed itself."""
        existing = self._links.get(newer.principal, [])
        if not is_client(newer.principal):
            for link in existing:
                if reason := refuse_newer(self._own, link, newer):
                    return reason
            return list(existing)
        same_process = [link for link in existing if link.instance == newer.instance]
        if same_process:
            return same_process
        if len(existing) >= self._limits.links_per_client_max:
            return [min(existing, key=lambda link: link.last_received)]
        if self.client_links < self._client_links_max:
            return []
        # Who has most links gives one, unless the newer one's client would then have as many: a few faulty clients
        # must not keep all others out.
        most = max((links for p, links in self._links.items() if is_client(p)), key=len, default=[])
        return [min(most, key=lambda link: link.last_received)] if len(most) > len(existing) + 1 else "busy"

    def add(self, link: AnyLink) -> None:
        """Enter a link that was admitted."""
        self._links.setdefault(link.principal, []).append(link)
        self.client_links += is_client(link.principal)

    def remove(self, link: AnyLink) -> bool:
        """Take a link out; False if it was not entered."""
        links = self._links.get(link.principal, [])
        if link not in links:
            return False
        links.remove(link)
        if not links:
            del self._links[link.principal]
        self.client_links -= is_client(link.principal)
        return True

    def get(self, principal: int) -> list[AnyLink] | None:
        """The links of a principal, oldest first, None if there is none. Not a copy."""
        return self._links.get(principal)

    def principals(self) -> frozenset[int]:
        """Everybody with a link."""
        return frozenset(self._links)

    def all(self) -> list[AnyLink]:
        """All links, in the order in which their principals came."""
        return [link for links in self._links.values() for link in links]
