"""Contributions are differences, copies earn nothing, and the greedy ensemble is never worse than its best member."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.combining.contribution import (
    EvaluationTargets,
    distances,
    ensemble_stats,
    greedy_weights,
    leave_one_out,
    score,
)
from raytune_rl.combining.diversity import disagreements
from raytune_rl.combining.losses import Evidence, Kind, combine, losses
from raytune_rl.mdp import Score
from tests.combining.predictions import made_up

SPLIT: list[Kind] = ["classification", "regression"]


def evidence(kind: Kind = "classification", **sizes: int) -> tuple[Evidence, np.ndarray, np.ndarray]:
    predictions, targets = made_up(kind, **sizes)
    return Evidence.of(predictions, targets, kind), predictions, targets


def test_scores_are_those_of_the_mdp() -> None:
    of = Score(metric="loss", mode="min").of
    np.testing.assert_allclose(score(np.array([0.0, 0.3, 4.0])), [of(0.0), of(0.3), of(4.0)])


@pytest.mark.parametrize("kind", SPLIT)
def test_a_contribution_is_the_ensemble_with_less_the_ensemble_without(kind: Kind) -> None:
    found, predictions, targets = evidence(kind)
    for member, contribution in enumerate(leave_one_out(found)):
        others = np.delete(predictions, member, axis=0)
        values = [score(losses(combine(some)[None], targets, kind)[0]) for some in (predictions, others)]
        assert contribution == pytest.approx(float(values[0] - values[1]))


@given(st.integers(0, 10**6), st.sampled_from(SPLIT), st.integers(1, 5))
def test_who_predicts_what_the_others_do_on_average_adds_nothing(seed: int, kind: Kind, members: int) -> None:
    predictions, targets = made_up(kind, members=members, rows=30, seed=seed)
    with_echo = np.concatenate([predictions, predictions.mean(axis=0, keepdims=True)])
    assert leave_one_out(Evidence.of(with_echo, targets, kind))[-1] == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 10**6))
def test_a_copier_earns_nothing_and_ends_what_its_source_had_alone(seed: int) -> None:
    predictions, targets = made_up("classification", members=2, rows=30, seed=seed)
    copied = Evidence.of(np.repeat(predictions[:1], 2, axis=0), targets, "classification")
    np.testing.assert_allclose(leave_one_out(copied), 0, atol=1e-12)
    # With replacement, a second copy gives the greedy ensemble nothing that the first did not.
    three = Evidence.of(predictions[[0, 1, 0]], targets, "classification")
    two = three.take(members=np.array([0, 1]))
    assert three.loss(greedy_weights(three)) == pytest.approx(two.loss(greedy_weights(two)))


def test_alone_a_member_contributes_its_score() -> None:
    found, *_ = evidence(members=1)
    assert leave_one_out(found) == pytest.approx(score(found.losses()))


@given(st.integers(0, 10**6), st.sampled_from(SPLIT))
def test_the_greedy_ensemble_is_at_least_its_best_member(seed: int, kind: Kind) -> None:
    found, *_ = evidence(kind, rows=30, seed=seed)
    weights = greedy_weights(found)
    assert weights.sum() == pytest.approx(1.0) and (weights >= 0).all()
    assert found.loss(weights) <= found.losses().min() + 1e-12
    assert np.count_nonzero(greedy_weights(found, picks=1)) == 1


def test_distances() -> None:
    predictions = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    np.testing.assert_allclose(distances(predictions[0], predictions), [0.0, 0.0, np.sqrt(2)])


def test_the_stats_of_each_member() -> None:
    found, predictions, targets = evidence(members=4)
    between = np.stack([distances(one, predictions) for one in predictions])
    stats = ensemble_stats(found, between, disagreements(predictions))
    assert [one.contribution for one in stats] == pytest.approx(list(leave_one_out(found)))
    assert sum(one.weight for one in stats) == pytest.approx(1.0)
    assert all(0 < one.nearest <= one.distance for one in stats)
    assert [one.spread for one in stats] == pytest.approx([np.mean([one.distance for one in stats])] * 4)
    assert stats[0].best == pytest.approx(float(score(losses(predictions, targets, "classification").min())))
    assert stats[0].greedy >= stats[0].best and stats[0].ambiguity > 0 and 0 < stats[0].disagreement < 1


def test_distances_of_a_regression_are_in_the_targets_spread() -> None:
    assert EvaluationTargets(np.array([[0.0], [4.0]]), "regression").spread == 2.0
    assert (
        EvaluationTargets(np.array([[3.0], [3.0]]), "regression").spread
        == EvaluationTargets(np.array([0, 1]), "classification").spread
        == 1.0
    )
