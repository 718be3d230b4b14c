"""A population on paper: losses that fall fastest at a certain learning rate. No Ray, no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune

from raytune_rl.controller import Controller, Policy
from raytune_rl.hyperparameters import SearchSpace, roles
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import improvement
from raytune_rl.records import Decision, Report, Step

SPACE = SearchSpace.from_specs(
    {
        "lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)),
        "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
        "init": roles.initialisation(tune.choice(["xavier", "kaiming"])),
    }
)


def make_controller(policy: Policy, *, seed: int = 0, **changes: Any) -> Controller:
    settings: dict[str, Any] = {
        "space": SPACE,
        "observation": ObservationSpec(SPACE),
        "actions": ActionSpec(SPACE, copy_every=2),
        "reward": improvement(),
        "policy": policy,
        "metric": "loss",
        "mode": "min",
        "population": 4,
        "segments": 6,
        "seed": seed,
    }
    return Controller(**{**settings, **changes})


class Paper:
    """Members whose loss shrinks by up to a third per segment, most at a learning rate of 0.01."""

    def __init__(self, controller: Controller, members: int = 4) -> None:
        self.controller = controller
        self.decisions: dict[int, Decision] = {m: controller.begin(m) for m in range(members)}
        self.losses = dict.fromkeys(range(members), 2.0)
        self.best = dict(self.losses)

    def report(self, member: int, **changes: Any) -> Report:
        decision = self.decisions[member]
        if decision.source.kind == "member":
            self.losses[member] = self.losses[decision.source.member or 0]
        elif decision.source.kind == "checkpoint":
            self.losses[member] = self.best[decision.source.member or 0]
        lr = float(decision.hyperparameters["lr"])
        self.losses[member] *= 1.0 - 0.3 * math.exp(-((math.log10(lr) + 2.0) ** 2))
        self.best[member] = min(self.best[member], self.losses[member])
        fields: dict[str, Any] = {
            "member": member,
            "segment": decision.segment,
            "steps": decision.segment + 1,
            "metrics": {"loss": self.losses[member]},
            "hyperparameters": decision.hyperparameters,
            "decision": decision.segment,
            "seconds": 0.1,
        }
        return Report(**{**fields, **changes})

    def generation(self, changes: Mapping[int, Mapping[str, Any]] | None = None) -> Step:
        """All members that still train report once, together."""
        going = [m for m, d in self.decisions.items() if not d.stop]
        step = self.controller.step([self.report(m, **(changes or {}).get(m, {})) for m in going])
        self.decisions |= {d.member: d for d in step.decisions}
        return step

    def play(self, each: Callable[[Step], None] = lambda step: None) -> list[Step]:
        steps = []
        while any(not d.stop for d in self.decisions.values()):
            steps.append(self.generation())
            each(steps[-1])
        return steps
