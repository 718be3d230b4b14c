"""One decision process for both worlds: traces of real trials and of rollouts, played again through environments.

Where a change of the process is meant, make the trace of real trials again (it starts Ray):
``python -m tests.worlds.environments.test_golden``.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.utils import seeding

from raytune_rl.controller.controller import Controller
from raytune_rl.controller.guided import Guided
from raytune_rl.controller.policies import PBT
from raytune_rl.mdp.state import SIGNALS
from raytune_rl.records import Report, Step
from raytune_rl.worlds.cohort import Cohort, Measured
from raytune_rl.worlds.environments import ParallelPopulationEnv, SegmentEnv, VectorSegmentEnv, stage
from raytune_rl.worlds.environments.segment import SEEDS
from raytune_rl.worlds.generator import World, make_world
from raytune_rl.worlds.rollout import Rollout, make_controller
from raytune_rl.worlds.task import WorldTask

TRACE = Path(__file__).with_name("real_trace.json")
MEMBERS, SEGMENTS, COPY_EVERY = 4, 6, 2


def real_experiment() -> Any:
    """What the trace was recorded from: digits, real trials, every action at random."""
    from ray import tune
    from torch import nn

    from raytune_rl import Experiment, Random, TorchTask, roles
    from raytune_rl.tasks.digits import digits, digits_network

    return Experiment(
        candidate=TorchTask(digits_network, digits, loss=nn.CrossEntropyLoss(), optimizer="adam"),
        hyperparameters={
            "lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1)),
            "weight_decay": roles.weight_decay(tune.loguniform(1e-6, 0.1)),
            "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
        },
        metric="validation_loss",
        mode="min",
        population=MEMBERS,
        segments=SEGMENTS,
        segment_length=5,
        copy_every=COPY_EVERY,
        agent=Random(),
        schedule="cosine",
        start="agent",
        synchronous=True,
    )


def record(out: Path) -> dict[str, Any]:
    """The steps of that run's controller."""
    from raytune_rl.runs.runner import run

    steps: list[Step] = []
    step = Controller.step

    def kept(self: Controller, reports: Any) -> Step:
        steps.append(step(self, reports))
        return steps[-1]

    Controller.step = kept  # type: ignore[method-assign]
    run(real_experiment(), out=out)
    return {"steps": [_plain(each) for each in steps]}


def _plain(step: Step) -> dict[str, Any]:
    names = ("member", "segment", "steps", "metrics", "signals", "hyperparameters", "decision", "seconds")
    names += ("copied_from", "copied_segment")
    return {
        "reports": [{name: getattr(report, name) for name in names} for report in step.reports],
        "opened": [
            {"action": d.action, "observation": d.observation, "hyperparameters": d.hyperparameters}
            for d in step.opened
        ],
        "rewards": step.rewards,
    }


def trace() -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads(TRACE.read_text())["steps"]
    for step in steps:  # trials report in any order
        order = np.argsort([report["member"] for report in step["reports"]])
        for name in ("reports", "opened", "rewards"):
            step[name] = [step[name][index] for index in order]
    return steps


class Recorded:
    """Stands where a cohort trains, and measures what the real trials did."""

    def __init__(self, task: WorldTask, streams: Any, *, seed: int, device: str) -> None:
        self.task, self._size, self._segment = task, len(streams), 0
        self.applied: list[list[dict[str, Any]]] = []
        self.taken: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return self._size

    def apply(self, values: Any) -> None:
        self.applied.append([dict(value) for value in values])

    def take(self, *copies: Any) -> None:
        self.taken.append(copies)

    def train(self, sample: None = None) -> Measured:
        reports = trace()[self._segment]["reports"]
        self._segment += 1
        known = [name for name in SIGNALS if name in reports[0]["signals"] and name != "train_seconds"]
        return Measured(
            validation_loss=np.array([report["metrics"]["validation_loss"] for report in reports]),
            signals={name: np.array([report["signals"][name] for report in reports]) for name in known},
        )


def real_world() -> World:
    experiment = real_experiment()
    space = experiment.space()
    made = SimpleNamespace(space=space, optimiser_sign=1.0, segment_length=5, splits=None)
    return World(number=-1, task=made, members=MEMBERS, segments=SEGMENTS, copy_every=COPY_EVERY)  # type: ignore[arg-type]


def test_real_trials_and_the_environment_see_and_pay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cohorts: list[Recorded] = []

    def recorded(*given: Any, **named: Any) -> Recorded:
        cohorts.append(Recorded(*given, **named))
        return cohorts[-1]

    monkeypatch.setattr(stage, "Cohort", recorded)
    env = ParallelPopulationEnv(real_world())
    observations, _ = env.reset(seed=0)
    for segment, then in enumerate(trace()):
        opened = dict(zip(env.possible_agents, then["opened"], strict=True))
        for name in env.agents:
            np.testing.assert_allclose(observations[name], opened[name]["observation"], rtol=1e-6, atol=1e-7)
        observations, rewards, _, truncated, _ = env.step({name: opened[name]["action"] for name in env.agents})
        np.testing.assert_allclose(list(rewards.values()), then["rewards"], rtol=1e-9)
        for values, report in zip(cohorts[-1].applied[segment], then["reports"], strict=True):
            assert values == pytest.approx(report["hyperparameters"], rel=1e-6)  # read back from the real optimiser
        receivers = {report["member"] for report in then["reports"] if report["copied_from"] is not None}
        assert set(cohorts[-1].taken[segment][0]) == receivers
    assert all(truncated.values())


def test_the_trace_is_worth_playing() -> None:
    steps = trace()
    assert len(steps) == SEGMENTS and all(len(step["reports"]) == MEMBERS for step in steps)
    assert sum(report["copied_from"] is not None for step in steps for report in step["reports"]) >= 2


def test_the_trace_of_real_trials_through_a_guided_controller() -> None:
    """And the same reports through both halves of a controller's step, without environment or cohort."""
    world, policy = real_world(), Guided(PBT(), schedule="cosine")
    controller = make_controller(world.task, policy, members=MEMBERS, segments=SEGMENTS, seed=0, copy_every=COPY_EVERY)
    steps = trace()
    policy.tell({member: opened["action"] for member, opened in enumerate(steps[0]["opened"])})
    decisions = [controller.begin(member) for member in range(MEMBERS)]
    for now, later in zip(steps, [*steps[1:], None], strict=True):
        for decision, opened in zip(decisions, now["opened"], strict=True):
            np.testing.assert_allclose(decision.observation, opened["observation"], rtol=1e-6, atol=1e-7)
        taken = controller.take([Report(**report) for report in now["reports"]])
        np.testing.assert_allclose(taken.rewards, now["rewards"], rtol=1e-9)
        if later is not None:
            policy.tell({member: opened["action"] for member, opened in enumerate(later["opened"])})
            decisions = list(controller.decide(taken).decisions)


# -- a rollout and the environments ------------------------------------------------------------------------------------


def seed_of(environment_seed: int) -> int:
    """What an environment that was reset with this seed derives its first episode from."""
    return int(seeding.np_random(environment_seed)[0].integers(SEEDS))


def rolled(world: World, populations: int, seed: int) -> Rollout:
    """A rollout with PBT in the cosine frame, as the environments make it."""
    cohort = Cohort(world.task, range(populations * world.members), seed=seed)
    controllers = [
        make_controller(
            world.task,
            Guided(PBT(), schedule="cosine"),
            members=world.members,
            segments=world.segments,
            seed=seed + group,
            copy_every=world.copy_every,
        )
        for group in range(populations)
    ]
    rollout = Rollout(cohort, controllers, segments=world.segments)
    rollout.play()
    return rollout


def test_a_rollouts_actions_give_the_same_through_all_environments() -> None:
    world = World(number=3, task=make_world(3).task, members=3, segments=5, copy_every=2)
    one = rolled(world, 1, seed_of(11)).played[0]
    assert {d.source.kind for step in one.steps[:-1] for d in step.decisions} > {"keep"}
    opened = [one.start, *[step.decisions for step in one.steps[:-1]]]

    single, everybody = SegmentEnv(world, steered=1), ParallelPopulationEnv(world)
    seen, _ = single.reset(seed=11)
    all_seen, _ = everybody.reset(seed=11)
    for decisions, step in zip(opened, one.steps, strict=True):
        np.testing.assert_array_equal(seen, np.float32(decisions[1].observation))
        np.testing.assert_array_equal(list(all_seen.values()), np.float32([d.observation for d in decisions]))
        seen, reward, *_ = single.step(np.array(decisions[1].action))
        actions = {f"member_{d.member}": np.array(d.action) for d in decisions}
        all_seen, rewards, *_ = everybody.step(actions)
        assert reward == step.rewards[1] and tuple(rewards.values()) == step.rewards


def test_a_rollout_of_many_populations_is_what_the_vector_environment_plays() -> None:
    world = World(number=1, task=make_world(1).task, members=2, segments=4, copy_every=1)
    played = rolled(world, 3, seed_of(5)).played
    env = VectorSegmentEnv(3, world, steered=1)
    seen, _ = env.reset(seed=5)
    for segment in range(world.segments):
        opened = [(p.start if segment == 0 else p.steps[segment - 1].decisions)[1] for p in played]
        np.testing.assert_array_equal(seen, np.float32([decision.observation for decision in opened]))
        seen, rewards, _, _, info = env.step(np.array([decision.action for decision in opened]))
        assert rewards.tolist() == [p.steps[segment].rewards[1] for p in played]
        np.testing.assert_array_equal(info["validation_loss"], [p.validation[segment, 1] for p in played])


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        TRACE.write_text(json.dumps(record(Path(folder) / "run"), indent=None) + "\n")
