"""What a new view begins with: rules 1.3, 2.6 (A1, A2, B, the checkpoint), against a naive second implementation."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_decision import (
    DIGESTS,
    A,
    B,
    faults,
    highest_view_wins,
    naive_decide,
    quorum,
    random_history,
    state_at,
    view_change,
)

from pbft.batch import NULL_DIGEST
from pbft.config import Quorums
from pbft.messages import ViewChange
from pbft.protocol.decision import GENESIS, Decision, decide, is_consistent

SIZES = (4, 5, 6, 7, 10)
WINDOW = 4
VIEW = 5


def plain(decision: Decision | None) -> object:
    return decision and (decision.low, decision.state, decision.chosen, decision.last)


def decided(s: Sequence[ViewChange], n: int = 4) -> Decision | None:
    """What `decide` says, and it says the same in any order and as the naive one does."""
    found = decide(Quorums(n), WINDOW, s)
    assert found == decide(Quorums(n), WINDOW, s[::-1])
    assert plain(found) == naive_decide(n, WINDOW, list(s))
    return found


def chosen(s: Sequence[ViewChange], n: int = 4) -> dict[int, bytes] | None:
    found = decided(s, n)
    return None if found is None else dict(found.chosen)


# ---- against the naive one


def anything(rng: Random, sender: int) -> ViewChange:
    """A consistent VIEW-CHANGE; many agree by chance, since there is little to choose from."""
    low = rng.choice((0, 0, 0, 0, 2, 4))
    numbers = range(low + 1, low + WINDOW + 1)
    p = {k: (rng.choice(DIGESTS), rng.randrange(2)) for k in numbers if rng.random() < 0.3}
    q = {(k, d): rng.randrange(2) for k in numbers for d in DIGESTS if rng.random() < 0.5}
    c = {k: rng.choice((state_at(k), state_at(k), state_at(k), A)) for k in (low, low + rng.choice((0, 2, 4)))}
    return view_change(sender, 2, p, q, low, c)


def any_set(rng: Random, n: int, at_most: int) -> list[ViewChange]:
    return [anything(rng, i) for i in rng.sample(range(n), rng.randint(quorum(n) - 1, at_most))]


randoms = st.integers(0, (1 << 32) - 1).map(Random)
sizes = st.sampled_from(SIZES)
views = st.integers(1, 6)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(randoms, sizes)
def test_both_decide_the_same_on_anything(rng: Random, n: int) -> None:
    """Two implementations of rule 2.6 agree on any consistent VIEW-CHANGEs, in any order."""
    s = any_set(rng, n, n)
    assert all(is_consistent(m, WINDOW) for m in s)
    decided(s, n)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(randoms, sizes, views)
def test_both_decide_the_same_after_honest_histories_with_liars(rng: Random, n: int, views: int) -> None:
    """On what correct replicas tell after a few views, beside up to f inventions; whatever committed is chosen again,
    and nothing but what somebody pre-prepared, or NULL."""
    history = random_history(rng, n, WINDOW, views)
    s = history.gather(views, history.some(history.correct), history.some(history.liars))
    found = decided(s, n)
    if found is None:
        return
    again = dict(found.chosen)
    for k, d in history.committed.items():
        assert k <= found.low or again.get(k) == d, "what committed survives"
    held = {entry for tables in history.pre.values() for entry in tables}
    assert all(d == NULL_DIGEST or (k, d) in held for k, d in again.items()), "a correct replica has the body (A3)"


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(randoms, sizes, views)
def test_all_correct_replicas_together_always_decide(rng: Random, n: int, views: int) -> None:
    """Waiting for more ends: the VIEW-CHANGEs of all correct replicas decide, whatever the liars said before and say
    now, or if they say nothing (2.6 note iii)."""
    history = random_history(rng, n, WINDOW, views)
    assert decided(history.gather(views, history.correct, []), n) is not None
    assert decided(history.gather(views, history.correct, history.some(history.liars)), n) is not None


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(randoms, sizes)
def test_one_more_view_change_keeps_a_decision_possible(rng: Random, n: int) -> None:
    """Monotone: each condition counts those that agree, so a set that decides still does when it grows."""
    s = any_set(rng, n, n - 1)
    if decided(s, n) is not None:
        more = anything(rng, min(set(range(n)) - {m.sender for m in s}))
        assert decided([*s, more], n) is not None


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(randoms, sizes, views)
def test_who_lies_after_a_decision_cannot_undo_it(rng: Random, n: int, views: int) -> None:
    """The same on honest histories: the liars' VIEW-CHANGEs come last."""
    history = random_history(rng, n, WINDOW, views)
    s = history.gather(views, history.some(history.correct), [])
    if decided(s, n) is not None:
        assert decided(s + history.gather(views, [], history.liars), n) is not None


# ---- P, Q, A1, A2


@pytest.mark.scenario("G11")
def test_a_forged_p_entry_in_a_high_view_does_not_win() -> None:
    """PREPAREs are MAC'd, so anybody can say that it prepared anything: A2 asks for f+1 who pre-prepared it. By the
    rule of the all-signed protocol, the highest view in any P, the forgery would replace a committed batch (1.3)."""
    honest = [view_change(i, VIEW, {1: (A, 0)}, {(1, A): 0}) for i in (0, 1)]
    liar = view_change(3, VIEW, {1: (B, 4)}, {(1, B): 4})
    late = view_change(2, VIEW, {}, {(1, A): 0})
    assert highest_view_wins([*honest, liar], 1) == B
    assert chosen([*honest, liar]) is None, "A1 needs a third voice for A"
    assert chosen([*honest, liar, late]) == {1: A}


@pytest.mark.parametrize("n", SIZES)
def test_f_liars_cannot_invent_a_batch(n: int) -> None:
    """f replicas that vouch for each other's P entry are one short of A2, and of preventing B."""
    f = faults(n)
    liars = [view_change(i, VIEW, {1: (B, 4)}, {(1, B): 4}) for i in range(f)]
    honest = [view_change(i, VIEW) for i in range(f, n)]
    assert highest_view_wins(liars, 1) == B
    assert chosen([*liars, *honest], n) == {}


@pytest.mark.parametrize("n", SIZES)
def test_a1_counts_q_that_do_not_contradict(n: int) -> None:
    """A batch wins with q replicas whose P has nothing, something older, or the same; with one fewer it waits."""
    q, f = quorum(n), faults(n)
    entry = {"p": {1: (A, 2)}, "q": {(1, A): 2}}
    agreeing = [view_change(i, VIEW, **entry) for i in range(f + 1)]
    agreeing += [view_change(i, VIEW, {1: (B, 1)}) for i in range(f + 1, q)]
    contradicting = view_change(q, VIEW, {1: (B, 2)})
    assert chosen(agreeing, n) == {1: A}
    assert chosen([*agreeing[:-1], contradicting], n) is None
    assert chosen([*agreeing, contradicting], n) == {1: A}


@pytest.mark.parametrize("n", SIZES)
def test_a2_counts_f_plus_1_that_pre_prepared_it_then_or_later(n: int) -> None:
    """Pre-prepared in an older view does not vouch for it: something else may have been chosen between."""
    q, f = quorum(n), faults(n)
    first = [view_change(0, VIEW, {1: (A, 2)}, {(1, A): 2})]
    later = [view_change(i, VIEW, {}, {(1, A): 3}) for i in range(1, f + 1)]
    older = [view_change(i, VIEW, {}, {(1, A): 1}) for i in range(f + 1, q)]
    assert chosen([*first, *later, *older], n) == {1: A}
    too_few = [*first, *later[:-1], *older, view_change(q, VIEW, {}, {(1, A): 1})]
    assert chosen(too_few, n) == ({} if len(too_few) - 1 >= q else None), "q others prepared nothing, or it waits"


def test_a_wins_over_b() -> None:
    """Where q prepared nothing and yet A holds, the batch is chosen: it may have been prepared by one replica only."""
    s = [view_change(0, VIEW, {1: (A, 1)}, {(1, A): 1})]
    s += [view_change(1, VIEW, {}, {(1, A): 1}), view_change(2, VIEW), view_change(3, VIEW)]
    assert chosen(s) == {1: A}
    s[1] = view_change(1, VIEW)
    assert chosen(s) == {}, "without its second witness B decides: NULL, and that is left out at the end"


def test_of_several_the_highest_view_wins_then_the_smallest_digest() -> None:
    """A deterministic choice, so that everybody recomputes the same from the same set. Two digests of one view with A
    need liars on both sides, and then neither can have committed."""
    both = {(1, A): 3, (1, B): 3}
    by_view = [view_change(0, VIEW, {1: (A, 2)}, both), view_change(1, VIEW, {1: (B, 3)}, both)]
    by_view += [view_change(2, VIEW), view_change(3, VIEW)]
    assert chosen(by_view) == {1: B}
    by_digest = [view_change(0, VIEW, {1: (B, 3)}, both), view_change(1, VIEW, {1: (A, 3)}, both)]
    by_digest += [view_change(2, VIEW), view_change(3, VIEW)]
    assert chosen(by_digest) == {1: min(A, B)}


# ---- NULL, and where it ends


def test_null_chosen_by_a_is_kept_and_nulls_after_the_last_are_left_out() -> None:
    """NULL has P and Q entries like any batch. One that won by A may have committed and is agreed again, also at the
    end; NULLs by B fill gaps below it and are left out above it (2.6)."""
    null = {"p": {3: (NULL_DIGEST, 2)}, "q": {(3, NULL_DIGEST): 2}}
    s = [view_change(i, VIEW, **null) for i in (0, 1)] + [view_change(2, VIEW)]
    found = decided(s)
    assert found is not None
    assert found.chosen == ((1, NULL_DIGEST), (2, NULL_DIGEST), (3, NULL_DIGEST))
    assert found.last == 3, "number 4 is free for a fresh proposal"


def test_a_gap_is_filled_with_null() -> None:
    """Numbers below a chosen batch at which nobody prepared get NULL, so that execution can go on."""
    s = [view_change(i, VIEW, {3: (A, 1)}, {(3, A): 1, (1, B): 1}) for i in (0, 1)] + [view_change(2, VIEW)]
    assert chosen(s) == {1: NULL_DIGEST, 2: NULL_DIGEST, 3: A}


def test_nothing_prepared_anywhere_begins_empty() -> None:
    """Pre-prepared alone is not chosen: its requests are proposed again."""
    found = decided([view_change(i, VIEW, {}, {(1, A): 2}) for i in range(3)])
    assert found == Decision(0, GENESIS[1], (), 0)


# ---- waiting


def test_fewer_than_q_wait() -> None:
    """A set smaller than q decides nothing."""
    assert decided([view_change(i, VIEW) for i in range(2)]) is None


def test_where_neither_a_nor_b_holds_it_waits_for_more() -> None:
    """One prepared A and its witnesses are missing, so A2 fails; q prepared nothing does not hold either. The fourth
    VIEW-CHANGE ends it, whatever it says."""
    s = [view_change(0, VIEW, {1: (A, 2)}, {(1, A): 2}), view_change(1, VIEW), view_change(2, VIEW)]
    assert decided(s) is None
    assert chosen([*s, view_change(3, VIEW, {}, {(1, A): 2})]) == {1: A}
    assert chosen([*s, view_change(3, VIEW)]) == {}


def test_with_six_replicas_q_is_four() -> None:
    """n = 6: 2f+1 = 3 could split. Three that prepared nothing do not make NULL, three that agree do not make A."""
    nothing = [view_change(i, VIEW) for i in range(3)]
    one = view_change(3, VIEW, {1: (A, 2)}, {(1, A): 2})
    assert decided(nothing, 6) is None, "three are no quorum"
    assert decided([*nothing, one], 6) is None, "of four, three prepared nothing"
    assert chosen([*nothing, one, view_change(4, VIEW)], 6) == {}
    assert chosen([*nothing, one, view_change(4, VIEW, {}, {(1, A): 2})], 6) == {1: A}


# ---- the checkpoint


def checkpointed(sender: int, low: int, *signed: int) -> ViewChange:
    return view_change(sender, VIEW, low=low, checkpoints={k: state_at(k) for k in (low, *signed)})


@pytest.mark.scenario("A08")
def test_the_checkpoint_is_judged_over_the_whole_set() -> None:
    """h <= n is counted over all of S, not over those that name (n, d): else replicas with different low watermarks
    wait for each other for ever."""
    s = [checkpointed(0, 0, 2), checkpointed(1, 0), checkpointed(2, 2)]
    found = decided(s)
    assert found is not None and (found.low, found.state) == (2, state_at(2))


def test_the_largest_checkpoint_that_f_plus_1_name_is_taken() -> None:
    """One replica may invent a state; one that f+1 name a correct replica has."""
    s = [checkpointed(0, 0, 2, 4), checkpointed(1, 0, 2, 4), checkpointed(2, 0, 6)]
    assert decided(s) == Decision(4, state_at(4), (), 4)


def test_a_checkpoint_that_q_have_not_gone_beyond_is_needed() -> None:
    """Who is beyond n can no longer testify about the numbers above it."""
    s = [checkpointed(0, 0), checkpointed(1, 0), checkpointed(2, 2)]
    assert decided(s) is None
    assert decided([*s, checkpointed(3, 0)]) == Decision(0, state_at(0), (), 0)


def test_checkpoints_with_different_states_do_not_count_together() -> None:
    """(n, d) is one value: two replicas that name two states of one number are not f+1."""
    odd = view_change(0, VIEW, low=2, checkpoints={2: b"x" * 32})
    s = [odd, checkpointed(1, 2), checkpointed(2, 0), checkpointed(3, 0)]
    assert decided(s) is None
    found = decided([checkpointed(0, 2), *s[1:]])
    assert found is not None and found.state == state_at(2)


def test_entries_at_or_below_the_checkpoint_are_not_chosen_again() -> None:
    """What a replica with a lower watermark tells about numbers up to the checkpoint is passed over."""
    old = view_change(0, VIEW, {1: (A, 1), 3: (B, 1)}, {(1, A): 1, (3, B): 1}, 0, {0: state_at(0), 2: state_at(2)})
    new = [view_change(i, VIEW, {3: (B, 1)}, {(3, B): 1}, 2) for i in (1, 2)]
    assert decided([old, *new]) == Decision(2, state_at(2), ((3, B),), 3)


def test_the_first_state_needs_no_signature() -> None:
    """Everybody names (0, zeros) until its first stable checkpoint."""
    assert (0, state_at(0)) == GENESIS


# ---- consistency

GOOD = view_change(0, VIEW, {3: (A, 4)}, {(3, A): 4, (3, B): 2, (6, A): 0}, 2, {2: state_at(2), 4: state_at(4)})

INCONSISTENT = {
    "view 0": view_change(0, 0),
    "P below the window": GOOD._replace(prepared=((2, A, 1),)),
    "P above the window": GOOD._replace(prepared=((7, A, 1),)),
    "P of its own view": GOOD._replace(prepared=((3, A, VIEW),)),
    "P of a later view": GOOD._replace(prepared=((3, A, VIEW + 1),)),
    "two P entries for one number": GOOD._replace(prepared=((3, A, 1), (3, B, 1))),
    "the same P entry twice": GOOD._replace(prepared=((3, A, 1), (3, A, 1))),
    "Q below the window": GOOD._replace(preprepared=((2, A, 1),)),
    "Q above the window": GOOD._replace(preprepared=((7, A, 1),)),
    "Q of its own view": GOOD._replace(preprepared=((3, A, VIEW),)),
    "two Q entries for one number and digest": GOOD._replace(preprepared=((3, A, 1), (3, A, 2))),
    "two states of one number": GOOD._replace(checkpoints=((2, A), (2, B))),
    "C without h": GOOD._replace(checkpoints=((4, state_at(4)),)),
    "C below h": GOOD._replace(checkpoints=((0, state_at(0)), (2, state_at(2)))),
}


def test_a_consistent_view_change() -> None:
    """One P entry per number, several Q entries with distinct digests, checkpoints from h on."""
    assert is_consistent(GOOD, WINDOW)
    assert is_consistent(view_change(0, 1), WINDOW)


@pytest.mark.parametrize("message", INCONSISTENT.values(), ids=INCONSISTENT.keys())
def test_an_inconsistent_view_change(message: ViewChange) -> None:
    """No correct replica signs it, so nobody counts it (2.6)."""
    assert not is_consistent(message, WINDOW)
