"""The prediction store gives the same report by report as for all predictions at once."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raytune_rl.combining.contribution import EvaluationTargets
from raytune_rl.combining.losses import Kind
from raytune_rl.controller.policies import PBT, Random
from raytune_rl.controller.prediction_store import PredictionStore, with_ensemble_metrics, with_ensemble_stats
from raytune_rl.mdp import EnsembleStats, MemberState, mixed
from raytune_rl.mdp.score import OFFSET
from raytune_rl.records import Report
from tests.combining.predictions import made_up
from tests.controller.worlds import Paper, make_controller


def report(member: int, predictions: Any, **fields: Any) -> Report:
    return Report(member=member, segment=0, steps=1, metrics={"loss": 1.0}, predictions=predictions, **fields)


def filled(kind: Kind = "classification", members: int = 5) -> tuple[PredictionStore, np.ndarray]:
    predictions, targets = made_up(kind, members=members, rows=40)
    return PredictionStore(EvaluationTargets(targets, kind)), predictions.astype(np.float32)


def at_once(targets: EvaluationTargets, predictions: Mapping[int, np.ndarray]) -> dict[int, EnsembleStats]:
    store = PredictionStore(targets)
    store.set_predictions(predictions)
    return store.ensemble_stats()


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_one_by_one_or_all_at_once(kind: Kind) -> None:
    store, predictions = filled(kind)
    rng = np.random.default_rng(0)
    assert store.ensemble_stats() == {}
    newest: dict[int, np.ndarray] = {}
    for _ in range(20):
        member, which = (int(n) for n in rng.integers(5, size=2))
        newest[member] = predictions[which]
        store.update([report(member, predictions[which])])
        expected = at_once(store.targets, newest)
        for index, stats in store.ensemble_stats().items():
            for name in EnsembleStats.__slots__:
                assert getattr(stats, name) == pytest.approx(getattr(expected[index], name)), name


def test_a_member_that_fails_or_predicts_nan_leaves_the_ensemble() -> None:
    store, predictions = filled()
    store.update([report(m, predictions[m]) for m in range(4)])
    bad = np.full_like(predictions[0], np.nan)
    store.update([report(0, bad), report(1, None, status="failed"), report(2, predictions[4])])
    assert store.ensemble_stats() == at_once(store.targets, {2: predictions[4], 3: predictions[3]})
    store.update([report(2, None), report(3, None)])
    assert store.ensemble_stats() == {}


def test_the_stats_hold_the_changes_since_the_report_before() -> None:
    start = MemberState.start(0, (0.5,), ensemble=EnsembleStats())
    before = with_ensemble_stats(start, start, EnsembleStats(greedy=1.0), None)
    assert before.ensemble is not None and before.ensemble.greedy_change == 1.0 and before.ensemble.incumbent == 0.0
    after = with_ensemble_stats(before, before, EnsembleStats(greedy=1.5, contribution=-0.1), 0.7).ensemble
    assert after is not None
    assert (after.greedy_change, after.contribution_change, after.incumbent_change) == pytest.approx((0.5, -0.1, 0.7))
    kept = with_ensemble_stats(before, before, None, None).ensemble
    assert kept is not None and kept.greedy == 1.0 and kept.greedy_change == 0.0


def test_reports_show_measures_of_the_ensemble_instead_of_predictions() -> None:
    state = MemberState.start(0, (0.5,), ensemble=EnsembleStats(greedy=-np.log(0.3 + OFFSET), contribution=0.2))
    seen = with_ensemble_metrics(report(0, np.zeros((1, 1), dtype=np.float32)), state)
    assert seen.predictions is None
    assert seen.metrics["ensemble_loss"] == pytest.approx(0.3) and seen.metrics["ensemble_contribution"] == 0.2
    plain = with_ensemble_metrics(report(0, None), MemberState.start(0, (0.5,)))
    assert plain.metrics == {"loss": 1.0}


class Seen(Paper):
    """A population on paper whose members predict something, better the lower their loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets = np.random.default_rng(1).integers(3, size=50)

    def report(self, member: int, **changes: Any) -> Report:
        made = super().report(member, **changes)
        noise = np.random.default_rng([member, made.segment]).normal(size=(50, 3))
        scores = np.exp(np.eye(3)[self.targets] * 2 / self.losses[member] + noise)
        shares = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
        return replace(made, predictions=shares if made.status == "ok" else None)


def seen(policy: Any) -> Seen:
    targets = np.random.default_rng(1).integers(3, size=50)
    return Seen(
        make_controller(policy, reward=mixed(), evaluation_targets=EvaluationTargets(targets, "classification"))
    )


def test_rewards_and_observations_are_those_of_the_ensemble() -> None:
    paper = seen(Random())
    steps = paper.play()
    controller = paper.controller
    flag, share = (controller.observation.index(name) for name in ("ensemble", "contribution"))
    for step in steps:
        assert all(report.predictions is None for report in step.reports)
        for decision in step.decisions:
            assert not decision.observation or decision.observation[flag] == 1.0
    assert all(d.observation[share] != 0 for d in steps[-2].decisions)
    finals = [state.ensemble for state in controller.members.values()]
    assert len({stats.greedy for stats in finals if stats}) == 1
    assert steps[0].rewards != steps[1].rewards


def test_predictions_survive_a_restart() -> None:
    paper = seen(PBT())
    for _ in range(2):
        paper.generation()
    saved = pickle.loads(pickle.dumps(paper.controller.get_state(sparse=True)))
    other = seen(PBT())
    other.controller.set_state(saved)
    other.decisions, other.losses, other.best = dict(paper.decisions), dict(paper.losses), dict(paper.best)
    only = [paper.report(0)], [other.report(0)]
    one, two = (p.controller.step(r) for p, r in zip((paper, other), only, strict=True))
    assert one.rewards == two.rewards and one.decisions == two.decisions
    assert one.reports[0].metrics == two.reports[0].metrics


def test_a_failure_costs_and_changes_nothing_else() -> None:
    paper = seen(Random())
    paper.generation()
    step = paper.generation({1: {"status": "diverged", "metrics": {"loss": float("nan")}}})
    assert step.rewards[1] == -2.0
    assert "ensemble_loss" not in step.reports[1].metrics and "ensemble_loss" in step.reports[0].metrics
