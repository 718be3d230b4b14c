"""The gallery: what is worked out report by report is what all of it at once would give."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raytune_rl.combining.credit import Jury
from raytune_rl.combining.losses import Kind
from raytune_rl.controller.gallery import Gallery, placed, told
from raytune_rl.controller.policies import PBT, Random
from raytune_rl.mdp import MemberState, Standing, mixed
from raytune_rl.mdp.score import OFFSET
from raytune_rl.records import Report
from tests.combining.predictions import made_up
from tests.controller.worlds import Paper, make_controller


def report(member: int, predictions: Any, **fields: Any) -> Report:
    return Report(member=member, segment=0, steps=1, metrics={"loss": 1.0}, predictions=predictions, **fields)


def gallery(kind: Kind = "classification", members: int = 5) -> tuple[Gallery, np.ndarray]:
    predictions, targets = made_up(kind, members=members, rows=40)
    return Gallery(Jury(targets, kind)), predictions.astype(np.float32)


def at_once(jury: Jury, predictions: Mapping[int, np.ndarray]) -> dict[int, Standing]:
    fresh = Gallery(jury)
    fresh.set_predictions(predictions)
    return fresh.standings()


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_one_by_one_or_all_at_once(kind: Kind) -> None:
    shown, predictions = gallery(kind)
    rng = np.random.default_rng(0)
    assert shown.standings() == {}
    newest: dict[int, np.ndarray] = {}
    for _ in range(20):
        member, which = (int(n) for n in rng.integers(5, size=2))
        newest[member] = predictions[which]
        shown.take([report(member, predictions[which])])
        expected = at_once(shown.jury, newest)
        for index, standing in shown.standings().items():
            for name in Standing.__slots__:
                assert getattr(standing, name) == pytest.approx(getattr(expected[index], name)), name


def test_who_fails_or_predicts_nan_leaves_the_ensemble() -> None:
    shown, predictions = gallery()
    shown.take([report(m, predictions[m]) for m in range(4)])
    bad = np.full_like(predictions[0], np.nan)
    shown.take([report(0, bad), report(1, None, status="failed"), report(2, predictions[4])])
    assert shown.standings() == at_once(shown.jury, {2: predictions[4], 3: predictions[3]})
    shown.take([report(2, None), report(3, None)])
    assert shown.standings() == {}


def test_a_standing_tells_what_has_changed() -> None:
    start = MemberState.start(0, (0.5,), team=Standing())
    before = placed(start, start, Standing(greedy=1.0), None)
    assert before.team is not None and before.team.greedy_change == 1.0 and before.team.incumbent == 0.0
    after = placed(before, before, Standing(greedy=1.5, contribution=-0.1), 0.7).team
    assert after is not None
    assert (after.greedy_change, after.contribution_change, after.incumbent_change) == pytest.approx((0.5, -0.1, 0.7))
    kept = placed(before, before, None, None).team
    assert kept is not None and kept.greedy == 1.0 and kept.greedy_change == 0.0


def test_others_see_measures_and_no_predictions() -> None:
    state = MemberState.start(0, (0.5,), team=Standing(greedy=-np.log(0.3 + OFFSET), contribution=0.2))
    seen = told(report(0, np.zeros((1, 1), dtype=np.float32)), state)
    assert seen.predictions is None
    assert seen.metrics["ensemble_loss"] == pytest.approx(0.3) and seen.metrics["ensemble_contribution"] == 0.2
    plain = told(report(0, None), MemberState.start(0, (0.5,)))
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
    return Seen(make_controller(policy, reward=mixed(), jury=Jury(targets, "classification")))


def test_the_controller_pays_and_shows_the_ensemble() -> None:
    paper = seen(Random())
    steps = paper.play()
    controller = paper.controller
    flag, share = (controller.observation.index(name) for name in ("ensemble", "contribution"))
    for step in steps:
        assert all(report.predictions is None for report in step.reports)
        for decision in step.decisions:
            assert not decision.observation or decision.observation[flag] == 1.0
    assert all(d.observation[share] != 0 for d in steps[-2].decisions)
    finals = [state.team for state in controller.members.values()]
    assert len({team.greedy for team in finals if team}) == 1
    assert steps[0].rewards != steps[1].rewards


def test_a_restarted_driver_knows_what_was_predicted() -> None:
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


def test_a_failure_costs_and_moves_nothing_else() -> None:
    paper = seen(Random())
    paper.generation()
    step = paper.generation({1: {"status": "diverged", "metrics": {"loss": float("nan")}}})
    assert step.rewards[1] == -2.0
    assert "ensemble_loss" not in step.reports[1].metrics and "ensemble_loss" in step.reports[0].metrics
