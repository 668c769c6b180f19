"""Floods beyond what the replicas can serve at once, as real processes."""

from __future__ import annotations

import many_clients
import pytest
from many_clients import Told, check

pytestmark = pytest.mark.slow


@pytest.mark.scenario("E15")
@pytest.mark.parametrize(
    "tunables", [{}, {"pending_total": 8, "operations_per_request": 8}], ids=["as it ships", "with little room"]
)
def test_a_flood_of_many_clients_is_answered_exactly_once(tunables: dict[str, int]) -> None:
    """64 clients make all their calls at once: each is answered, each count is given to one call alone, memory is
    bounded, the backlog drains, and no primary is replaced; where there is little room, replicas say so, and what they
    refused is sent again."""
    found = many_clients.flood(clients=64, requests=100, in_flight=100, timeout=120.0, **tunables)
    assert found["acknowledged"] == found["counter"] == 6400
    assert found["refusals_busy"] > 0 or not tunables, found


# What is wrong with what two clients of two calls each were told, where the counter stands at `total`.
WRONG = {
    "a count twice": ([[1, 2], [2, 4]], 4),
    "a call without end": ([[1, 2], [3]], 4),
    "a count that is not there": ([[1, 2], [3, 5]], 4),
    "executed twice": ([[1, 2], [3, 4]], 5),
    "lost": ([[1, 2], [3, 4]], 3),
    "of another count": ([[0, 1], [2, 3]], 4),
}


@pytest.mark.parametrize(("results", "total"), WRONG.values(), ids=WRONG.keys())
def test_the_check_finds_what_is_wrong(results: list[list[int]], total: int) -> None:
    """Else the campaign would prove nothing."""
    with pytest.raises(AssertionError):
        check([Told(asked=2, results=of_one) for of_one in results], 2, total)
    check([Told(asked=2, results=[1, 4]), Told(asked=2, results=[2], unknown=1)], 2, 4)
