"""The shipped controller: in the package, small, readable without pickle, and at work in real trials."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import tune

import raytune_rl
from raytune_rl import Agent, BadInput, Experiment, Pretrained, TorchTask, roles
from raytune_rl.controller.controller import Controller
from raytune_rl.controller.tokens import TokenPolicy
from raytune_rl.hyperparameters import ROLES, SearchSpace, Spec
from raytune_rl.mdp import ActionSpec, ObservationSpec, improvement
from raytune_rl.records import Decision, Report, Step
from raytune_rl.rllib import checkpoints
from raytune_rl.runs.runner import run
from raytune_rl.tasks.wine import wine, wine_network
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.generator import META_VALIDATION, make_world
from raytune_rl.worlds.rollout import Rollout, make_controller
from tests import paper_experiment

HOME = Path(raytune_rl.__file__).parent / "pretrained"


def test_it_is_in_the_package_and_small() -> None:
    assert (HOME / "controller.safetensors").stat().st_size < 2 * 2**20
    record = json.loads((HOME / "controller.json").read_text())
    assert record["schema_version"] == 1 and record["recipe"] and record["meta_validation"]
    assert repr(Pretrained()) == "Pretrained()"


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 99}', '{"schema_version": 1, "prior": 1}'])
def test_what_is_no_controller_is_refused(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "controller.safetensors").write_bytes((HOME / "controller.safetensors").read_bytes())
    if content is not None:
        (tmp_path / "controller.json").write_text(content)
    with pytest.raises(BadInput, match="Pretrained: "):
        Pretrained(tmp_path)


@pytest.mark.cluster
def test_it_steers_real_trials(tmp_path: Path) -> None:
    from torch import nn

    experiment = Experiment(
        candidate=TorchTask(wine_network, wine, loss=nn.CrossEntropyLoss(), batch_size=16),
        hyperparameters={
            "lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)),
            "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
        },
        metric="validation_loss",
        mode="min",
        population=4,
        segments=5,
        segment_length=5,
        copy_every=2,
        agent=Pretrained(),
        synchronous=True,
        callbacks=None,
    )
    summary = run(experiment, out=str(tmp_path / "run"))
    assert summary is not None
    rows = pd.read_parquet(tmp_path / "run" / "segments.parquet")
    assert len(rows) == 20
    decisions = pd.read_parquet(tmp_path / "run" / "decisions.parquet")
    assert (decisions["obs/optimiser"].iloc[-1] == 1.0) and decisions["logp"].notna().all()
    # Starting values are its own, and a cosine lies over the rates.
    rates = rows.pivot(index="segment", columns="member", values="hp/lr")
    assert rates.iloc[0].nunique() >= 2
    assert (rates.iloc[-1] < rates.iloc[0]).mean() >= 0.5


def test_it_is_loaded_without_torch_ray_or_pandas() -> None:
    heavy = "print(*{'torch', 'ray', 'pandas'} & set(sys.modules))"
    code = f"import sys, raytune_rl; raytune_rl.Pretrained(learn=True); {heavy}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


# -- any search space ----------------------------------------------------------------------------------------------


DOMAINS = {
    "learning_rate": tune.loguniform(1e-6, 10.0),
    "weight_decay": tune.loguniform(1e-8, 1.0),
    "dropout": tune.uniform(0.0, 0.9),
    "momentum": tune.uniform(0.0, 0.999),
    "batch_size": tune.choice([8, 32, 128]),
    "label_smoothing": tune.uniform(0.0, 0.5),
    "initialisation": tune.choice(["kaiming", "orthogonal", "zero"]),
    "frozen_layers": tune.randint(0, 12),
    "augmentation": tune.uniform(0.0, 1.0),
    "none": tune.uniform(-1e6, 1e6),
}
SOME = [
    tune.lograndint(1, 10_000),
    tune.quniform(0.0, 1.0, 0.1),
    tune.choice(["a", "b", "c", "d"]),
    tune.loguniform(1e-9, 1e9),
]
SPECS = st.one_of(
    st.builds(
        lambda role, live: Spec(domain=DOMAINS[role], role=role, live=live), st.sampled_from(ROLES), st.booleans()
    ),
    st.builds(lambda domain, live: Spec(domain=domain, live=live), st.sampled_from(SOME), st.booleans()),
)
SPACES = st.lists(SPECS, min_size=1, max_size=20).map(lambda specs: {f"h{i}": spec for i, spec in enumerate(specs)})


def steer(
    space: SearchSpace, *, population: int, segments: int | None, lasting: int, stopping: bool = False
) -> list[Step]:
    """Members whose losses are noise (now and then NaN), steered by the shipped controller."""
    controller = Controller(
        space=space,
        observation=ObservationSpec(space),
        actions=ActionSpec(space, stopping=stopping, copy_every=1),
        reward=improvement(),
        policy=Pretrained(),
        metric="loss",
        mode="min",
        population=population,
        segments=segments,
        seed=1,
    )
    rng = np.random.default_rng(0)
    decisions: dict[int, Decision] = {member: controller.begin(member) for member in range(population)}
    steps = []
    for _ in range(lasting):
        going = [decision for decision in decisions.values() if not decision.stop]
        losses = np.where(rng.random(len(going)) < 0.05, np.nan, 10 ** rng.uniform(-6, 6, len(going))).tolist()
        step = controller.step([report(decision, loss) for decision, loss in zip(going, losses, strict=True)])
        decisions |= {decision.member: decision for decision in step.decisions}
        steps.append(step)
    return steps


def report(decision: Decision, loss: float) -> Report:
    return Report(
        member=decision.member,
        segment=decision.segment,
        steps=decision.segment + 1,
        metrics={"loss": loss},
        hyperparameters=decision.hyperparameters,
        decision=decision.segment,
        status="ok" if np.isfinite(loss) else "diverged",
    )


@settings(max_examples=25)
@given(SPACES, st.sampled_from([1, 2, 8, 33]), st.sampled_from([None, 1, 3, 30]), st.booleans())
def test_it_steers_any_search_space(
    specs: Mapping[str, Spec], population: int, segments: int | None, stopping: bool
) -> None:
    space = SearchSpace.from_specs(specs)
    steps = steer(space, population=population, segments=segments, lasting=min(segments or 3, 3), stopping=stopping)
    opened = [decision for step in steps for decision in step.opened]
    assert len(opened) >= population
    for decision in (*opened, *(d for step in steps for d in step.decisions if not d.stop)):
        assert np.isfinite(decision.logp) and np.isfinite(decision.observation).all()
        back = space.decode(space.encode(decision.hyperparameters))  # inside the bounds and on the grid
        for name, value in decision.hyperparameters.items():
            assert back[name] == (pytest.approx(value) if isinstance(value, float) else value)
        if stopping and decision.action:
            assert decision.action[-1] == 0  # whether to stop is not its to judge


@pytest.mark.parametrize(("population", "size"), [(256, 1), (256, 20), (1, 20)])
def test_any_population(population: int, size: int) -> None:
    names = list(DOMAINS)
    specs = {f"h{i}": Spec(domain=DOMAINS[names[i % 9]], role=names[i % 9]) for i in range(size)}  # type: ignore[arg-type]
    steps = steer(SearchSpace.from_specs(specs), population=population, segments=3, lasting=2)
    assert all(len(step.decisions) == population for step in steps)


def test_what_it_cannot_judge_starts_anywhere_and_stays() -> None:
    unheard = {
        "layers": roles.frozen_layers(tune.randint(0, 12)),
        "batch": roles.batch_size(tune.randint(8, 256)),
        "init": roles.initialisation(tune.uniform(0.1, 2.0), live=True),
        "kind": tune.choice(["a", "b", "c", "d", "e", "f", "g"]),
    }
    space = SearchSpace.from_specs({"lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)), **unheard})
    steps = steer(space, population=64, segments=10, lasting=8)
    starts = np.array([decision.positions for decision in steps[0].opened])
    for index, name in enumerate(space.names[1:], start=1):
        assert len(set(starts[:, index])) == 7, name  # every level, about equally often
        assert np.bincount((starts[:, index] * 6.99).astype(int), minlength=7).max() <= 64 / 7 + 3, name
    by_member = {decision.member: decision.positions for decision in steps[0].opened}
    for step in steps:
        for before, after in zip(step.opened, step.decisions, strict=True):
            donor = by_member[after.source.member] if after.source.kind == "member" else by_member[before.member]
            if after.action and after.source.kind != "checkpoint":
                assert after.positions[1:] == donor[1:]  # unmoved: its own, or what came along with the weights
        by_member |= {decision.member: decision.positions for decision in step.decisions}


# -- learning on ---------------------------------------------------------------------------------------------------


def played(policy: Pretrained, *, segments: int = 10, seed: int = 0) -> Rollout:
    world = make_world(META_VALIDATION[0])
    cohort = Cohort(world.task, range(8), seed=0)
    controller = make_controller(world.task, policy, members=8, segments=segments, seed=seed, copy_every=2)
    rollout = Rollout(cohort, [controller], segments=segments)
    rollout.play()
    return rollout


def distance(policy: Pretrained, other: Mapping[str, np.ndarray]) -> float:
    return float(sum(np.abs(value - other[name]).sum() for name, value in policy.weights.items()))


def test_it_learns_on_in_a_packed_world_without_a_cluster() -> None:
    shipped = Pretrained().weights
    settled, learner, again = Pretrained(), Pretrained(learn=True), Pretrained(learn=True)
    frozen = played(settled)
    assert distance(settled, shipped) == 0 and settled.transitions == 0
    rollout = played(learner)
    assert learner.transitions == 8 * 9  # all decisions but the first ones
    assert learner.version == 2 and learner.restarts == 0
    assert distance(learner, shipped) > 0
    assert learner.requirements == TokenPolicy.requirements
    first = [[decision.action for decision in play.played[0].steps[1].decisions] for play in (frozen, rollout)]
    assert first[0] == first[1]  # it begins as the shipped one
    played(again)
    assert distance(again, learner.weights) == 0
    held = Pretrained(learn=True, anchor=1e3)
    played(held)
    assert distance(held, shipped) < distance(learner, shipped)


def test_bad_settings_and_directories(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"Pretrained: .*learning_rate is -1"):
        Pretrained(learning_rate=-1.0)
    with pytest.raises(BadInput, match="anchor is nan"):
        Pretrained(anchor=float("nan"))
    with pytest.raises(BadInput, match=r"no Pretrained\(learn=True\) has steered"):
        Pretrained.from_run(tmp_path)
    assert repr(Pretrained(learn=True)) == "Pretrained(learn=True)"


@pytest.mark.cluster
def test_a_run_is_learned_from_kept_and_carried_on(tmp_path: Path) -> None:
    agent = Pretrained(learn=True, batch=16)
    settings: dict[str, Any] = {"population": 4, "segments": 10, "synchronous": True, "callbacks": None}
    outcome = run(paper_experiment.make(agent=agent, **settings), out=str(tmp_path / "run"))
    told = outcome.summary["agent"]
    assert told["algorithm"] == "Pretrained(learn=True)" and told["checkpoint"] == "agent"
    assert told["transitions"] == 4 * 9
    assert agent.transitions == 0  # what is in the experiment stays as it was
    decisions = pd.read_parquet(tmp_path / "run" / "decisions.parquet")
    assert decisions["policy_version"].max() == 1  # the second update came with the last segment
    assert decisions["value"].notna().all()
    found = checkpoints.newest(tmp_path / "run" / "agent")
    assert found is not None and found.record["network"] == "tokens" and found.record["version"] == 2
    heir = Pretrained.from_run(tmp_path / "run", learn=True)
    assert distance(heir, Pretrained().weights) > 0
    assert distance(copy.deepcopy(heir), heir.weights) == 0
    with pytest.raises(ValueError, match=r"use Pretrained\.from_run"):
        Agent.from_run(tmp_path / "run")
