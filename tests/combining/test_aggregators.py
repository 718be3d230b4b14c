import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_rl.combining.aggregators import Aggregator, Convex, Greedy, TopK, Uniform
from raytune_rl.combining.losses import KINDS, Evidence
from tests.combining.predictions import made_up

ALL = [
    Uniform(),
    TopK(k=3),
    Greedy(),
    Greedy(bags=8),
    Greedy(held_back=0.4),
    Greedy(bags=4, held_back=0.3),
    Convex(),
    Convex(toward_equal=0.1),
]


def evidence_of(kind: str = "classification", **settings) -> Evidence:
    return Evidence.of(*made_up(kind, **settings), kind)


def chosen(aggregator: Aggregator, evidence: Evidence, seed: int = 0, **limits) -> np.ndarray:
    return aggregator.weights(evidence, np.random.default_rng(seed), **limits)


@pytest.mark.parametrize("aggregator", ALL, ids=repr)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 500), kind=st.sampled_from(KINDS), budget=st.sampled_from([1.0, 2.0, math.inf]))
def test_weights_are_convex_and_within_the_budget(aggregator, seed, kind, budget) -> None:
    evidence = evidence_of(kind, members=5, rows=40, seed=seed)
    weights = chosen(aggregator, evidence, seed, budget=budget)
    assert weights.shape == (5,) and (weights >= 0).all() and np.isclose(weights.sum(), 1.0)
    assert (weights > 0).sum() <= budget


@pytest.mark.parametrize("aggregator", ALL, ids=repr)
def test_candidates_that_predict_no_number_get_no_weight(aggregator) -> None:
    predictions, targets = made_up("classification")
    predictions[[0, 3]] = np.nan
    weights = chosen(aggregator, Evidence.of(predictions, targets, "classification"))
    assert weights[0] == weights[3] == 0.0
    predictions[:] = np.nan
    with pytest.raises(ValueError, match="finite"):
        chosen(aggregator, Evidence.of(predictions, targets, "classification"))


@pytest.mark.parametrize("aggregator", [Uniform(), TopK(k=3), Greedy(), Convex()], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_candidates_does_not_matter(aggregator, kind) -> None:
    evidence = evidence_of(kind)
    order = np.random.default_rng(3).permutation(len(evidence))
    np.testing.assert_allclose(
        chosen(aggregator, evidence.take(members=order)), chosen(aggregator, evidence)[order], atol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 500), st.sampled_from(KINDS), st.sampled_from([0, 5]), st.sampled_from([0.0, 0.3]))
def test_greedy_is_never_worse_than_the_best_single_on_what_it_selects_by(seed, kind, bags, held_back) -> None:
    evidence = evidence_of(kind, members=5, rows=40, seed=seed)
    weights = chosen(Greedy(bags=bags, held_back=held_back), evidence, seed)
    assert evidence.loss(weights) <= evidence.losses().min() + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_the_convex_optimum_is_not_beaten(kind) -> None:
    evidence = evidence_of(kind)
    best = evidence.loss(chosen(Convex(smallest=0.0), evidence))
    others = np.random.default_rng(0).dirichlet(np.ones(len(evidence)), size=300)
    assert best <= min(evidence.loss(other) for other in others) + 1e-6
    assert best <= evidence.loss(chosen(Greedy(), evidence)) + 1e-6


def test_uniform_and_top_k_take_the_best_first() -> None:
    evidence = evidence_of()
    order = np.argsort(evidence.losses())
    assert set(np.flatnonzero(chosen(TopK(k=2), evidence))) == set(order[:2])
    assert set(np.flatnonzero(chosen(Uniform(), evidence, budget=3.0))) == set(order[:3])
    np.testing.assert_allclose(chosen(Uniform(), evidence), 1 / 6)


@pytest.mark.parametrize("aggregator", ALL, ids=repr)
def test_a_latency_budget_leaves_out_what_is_too_slow(aggregator) -> None:
    evidence = evidence_of()
    costs = np.array([5.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # the best alone is too slow
    weights = chosen(aggregator, evidence, costs=costs, budget=3.0)
    assert weights[0] == 0.0 and costs[weights > 0].sum() <= 3.0
    with pytest.raises(ValueError, match="cheapest candidate costs 1"):
        chosen(aggregator, evidence, costs=costs, budget=0.5)


def test_guards_against_overfitting_the_selection_help_on_rows_that_it_has_not_seen() -> None:
    """Forty members that know nothing, so whatever is chosen is chosen for its luck."""
    unseen_loss = {"plain": [], "bagged": [], "both": []}
    guards = {"plain": Greedy(), "bagged": Greedy(bags=16), "both": Greedy(bags=16, held_back=0.3)}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        predictions, targets = rng.dirichlet(np.full(4, 4.0), size=(40, 300)), rng.integers(4, size=300)
        evidence = Evidence.of(predictions, targets, "classification")
        seen, unseen = evidence.take(rows=np.arange(60)), evidence.take(rows=np.arange(60, 300))
        for name, aggregator in guards.items():
            unseen_loss[name].append(unseen.loss(chosen(aggregator, seen, seed)))
    means = {name: np.mean(found) for name, found in unseen_loss.items()}
    assert means["bagged"] < means["plain"] - 0.005 and means["both"] < means["plain"] - 0.005


def test_holding_rows_back_ends_a_selection_earlier() -> None:
    """A good member beside a hundred lucky ones."""
    kept = {"plain": 0, "held back": 0}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        errors = np.concatenate([rng.normal(size=(1, 20, 1)), 1.0 + 3.0 * rng.normal(size=(100, 20, 1))])
        evidence = Evidence(values=errors, kind="regression")
        kept["plain"] += (chosen(Greedy(), evidence) > 0).sum()
        kept["held back"] += (chosen(Greedy(held_back=0.4), evidence) > 0).sum()
    assert kept["held back"] < 0.8 * kept["plain"]


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        *[
            (TopK, {"k": 0}),
            (TopK, {"k": 2.5}),
            (Greedy, {"size": 0}),
            (Greedy, {"size": "x"}),
            (Greedy, {"bags": 2.5}),
        ],
        *[(Greedy, {"bag_share": 0.0}), (Convex, {"smallest": 1}), (Convex, {"toward_equal": math.nan})],
    ],
)
def test_impossible_settings_are_refused(kind: Callable[..., object], setting: dict[str, Any]) -> None:
    (value,) = setting.values()
    with pytest.raises(ValueError, match=re.escape(repr(value))):
        kind(**setting)


def test_costs_are_one_per_candidate() -> None:
    with pytest.raises(ValueError, match="one per candidate"):
        chosen(Greedy(), evidence_of(), costs=np.ones(3))
