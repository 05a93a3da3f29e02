"""Averages over runs, clips in common, and exchanges of rates."""

import itertools

import numpy as np
import pytest

from synctalklip.metrics.statistics import Parts, bootstrap, paired_difference, permutation_test


def means(*values: float) -> Parts:
    return Parts.of(np.array(values), np.ones(len(values)))


def test_interval_over_runs_is_that_of_their_mean():
    one, other = np.random.default_rng(1).normal(0, 1, (2, 30))
    both = Parts(np.stack([one, other]), np.ones((2, 30)), np.zeros(2, bool))
    assert both.mean == pytest.approx((one.mean() + other.mean()) / 2)
    assert bootstrap(both, 200, 1) == pytest.approx(bootstrap(means(*(one + other) / 2), 200, 1))


def test_differences_are_over_the_clips_that_both_have():
    ours = Parts.of(np.array([1.0, 0.0, 3.0]), np.array([1.0, 0.0, 1.0]))
    theirs = Parts.of(np.array([0.0, 9.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert paired_difference(ours, theirs, 50, 1) == (2.0, 2.0, 2.0)
    nothing = Parts.of(np.zeros(3), np.zeros(3))
    assert np.isnan(permutation_test(ours, nothing, 100, 1))
    assert np.isnan(paired_difference(ours, nothing, 50, 1)).all()


def test_sign_flips_by_hand():
    # Of the 8 sums of +-3 +-1 +-1, two are 1 and -1 in size, so 6 reach the 3 of (3, 1, -1).
    assert permutation_test(means(3, 1, -1), means(0, 0, 0), 100, 1) == 6 / 8
    assert permutation_test(means(1, 2), means(1, 2), 100, 1) == 1


def test_exchanging_rates_equals_a_loop_over_all_exchanges():
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 9, (2, 8))
    errors = rng.integers(0, lengths + 1)
    observed = abs(errors[0].sum() / lengths[0].sum() - errors[1].sum() / lengths[1].sum())
    reached = 0
    for choice in itertools.product((0, 1), repeat=8):
        e, n = (np.array([part[[c, 1 - c], i] for i, c in enumerate(choice)]).sum(0) for part in (errors, lengths))
        reached += abs(e[0] / n[0] - e[1] / n[1]) >= observed - 1e-12
    ours, theirs = (Parts.of(errors[i], lengths[i]) for i in (0, 1))
    assert permutation_test(ours, theirs, 256, 1) == reached / 256
    assert permutation_test(ours, theirs, 255, 1) == pytest.approx(reached / 256, abs=0.12)  # drawn, not counted out


def test_random_exchanges_never_give_p_0():
    # 100 clips that are all better by 1: no random exchange is as large, so p is (0 + 1) / (99 + 1).
    assert permutation_test(means(*[2.0] * 100), means(*[1.0] * 100), 99, 1) == pytest.approx(0.01)


def test_equal_differences_count_whatever_their_last_bits():
    # 0.1 + 0.2 is not 0.3: every exchange of these two clips gives 0.3 or 0.1 in size.
    assert permutation_test(means(0.1, 0.2), means(0.0, 0.0), 100, 1) == 2 / 4
    assert permutation_test(means(0.1), means(0.0), 100, 1) == 1


def test_one_clip_has_an_interval_of_no_width_and_no_clip_none():
    assert bootstrap(means(2.5), 50, 1) == (2.5, 2.5)
    assert np.isnan(bootstrap(Parts.of(np.zeros(3), np.zeros(3)), 50, 1)).all()


def test_interval_agrees_with_the_normal_theory_of_a_mean():
    values = np.random.default_rng(2).normal(0, 1, 400)
    low, high = bootstrap(means(*values), 4000, 1)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)
