"""The one place that puts controllers together."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_rl.controller import Controller, Policy, PolicyRequirements, Random
from raytune_rl.controller.assembly import assemble
from raytune_rl.mdp.reward import improvement
from raytune_rl.records import Report
from tests.controller.worlds import SPACE


def assembled(policy: Policy, **changes: Any) -> Controller:
    settings: dict[str, Any] = {
        "space": SPACE,
        "policy": policy,
        "reward": improvement(),
        "metric": "loss",
        "mode": "min",
        "population": 2,
        "segments": 4,
        "synchronous": True,
        "seed": 0,
        "copy_every": 3,
    }
    return assemble(**{**settings, **changes})


class Demanding(Random):
    requirements = PolicyRequirements(copy_every=2)


@pytest.mark.parametrize(
    ("policy", "is_fixed", "copy_every"),
    [(Random(), False, 3), (Random(), True, 3), (Demanding(), False, 2), (Demanding(), True, 3)],
)
def test_the_interval_between_copies_is_the_policys_unless_it_is_fixed(
    policy: Policy, is_fixed: bool, copy_every: int
) -> None:
    controller = assembled(policy, copy_every_is_fixed=is_fixed)
    assert controller.actions.copy_every == copy_every


@pytest.mark.parametrize("synchronous", [True, False])
def test_a_synchronous_run_does_not_see_measured_times(synchronous: bool) -> None:
    controller = assembled(Random(), synchronous=synchronous)
    controller.begin(0)
    controller.step([Report(member=0, segment=0, steps=1, metrics={"loss": 1.0}, seconds=3.0)])
    assert controller.members[0].seconds == (0.0 if synchronous else 3.0)


def test_spaces_are_as_asked_for() -> None:
    controller = assembled(Random(), slots=5, optimiser=-1.0, stopping=True)
    seen = dict(zip(controller.observation.features, controller.opening(0).observation, strict=True))
    assert seen["optimiser"] == -1.0 and seen["pad/4/present"] == 0.0
    assert controller.actions.names[-1] == "stop"
