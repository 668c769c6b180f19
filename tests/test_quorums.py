"""Quorum arithmetic: the table, and the two properties that the protocol rests on."""

from __future__ import annotations

import itertools

import pytest

from pbft.config import ConfigError, Quorums

TABLE = [
    # n, f, strong, weak, vouching_prepares
    (4, 1, 3, 2, 1),
    (5, 1, 4, 2, 1),
    (6, 1, 4, 2, 1),
    (7, 2, 5, 3, 2),
    (8, 2, 6, 3, 2),
    (9, 2, 6, 3, 2),
    (10, 3, 7, 4, 3),
    (11, 3, 8, 4, 3),
    (12, 3, 8, 4, 3),
    (13, 4, 9, 5, 4),
]


@pytest.mark.scenario("H05")
@pytest.mark.parametrize(("n", "f", "strong", "weak", "vouching"), TABLE)
def test_table(n: int, f: int, strong: int, weak: int, vouching: int) -> None:
    """The thresholds of groups of 4 to 13."""
    q = Quorums(n)
    assert (q.n, q.f, q.strong, q.weak, q.vouching_prepares) == (n, f, strong, weak, vouching)


@pytest.mark.parametrize("n", range(4, 200))
def test_properties(n: int) -> None:
    """f is the largest with n > 3f; two strong quorums share f+1 replicas; one less would not do; the correct
    replicas alone suffice for each threshold; a weak certificate holds a correct replica."""
    q = Quorums(n)
    assert n > 3 * q.f and n <= 3 * (q.f + 1)
    assert 2 * q.strong - n >= q.f + 1
    assert 2 * (q.strong - 1) - n < q.f + 1
    assert q.strong <= n - q.f
    assert q.weak == q.f + 1 <= q.strong
    # vouching PREPAREs come beside the PRE-PREPARE: with the receiver's own knowledge at least one is correct
    assert q.vouching_prepares <= n - q.f - 1
    if n % 3 == 1:
        assert q.strong == 2 * q.f + 1


@pytest.mark.scenario("H05")
@pytest.mark.parametrize("n", [4, 5, 6, 7, 8])
def test_intersections_by_counting(n: int) -> None:
    """Counted set by set: any two strong quorums have a correct member in common, whoever the f faulty ones are."""
    q = Quorums(n)
    quorums = [frozenset(c) for c in itertools.combinations(range(n), q.strong)]
    for faulty in map(frozenset, itertools.combinations(range(n), q.f)):
        assert all((a & b) - faulty for a in quorums for b in quorums)
        assert any(not a & faulty for a in quorums)


@pytest.mark.parametrize("n", [-1, 0, 1, 2, 3])
def test_a_group_too_small_to_tolerate_a_fault_is_refused(n: int) -> None:
    """Fewer than four replicas tolerate no Byzantine fault; the error says how many are needed."""
    with pytest.raises(ConfigError, match="at least 4"):
        Quorums(n)


@pytest.mark.parametrize("n", [4, 7])
def test_primaries_take_turns(n: int) -> None:
    """primary(v) = v mod n: in n views in a row each replica is primary once."""
    assert sorted(map(Quorums(n).primary, range(100, 100 + n))) == list(range(n))
