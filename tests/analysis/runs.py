"""Run directories made as a run makes them: the real controller decides, the real writer writes; only the training is
replaced by arithmetic. No Ray, no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from raytune_rl import roles
from raytune_rl.controller import Controller, Policy
from raytune_rl.controller.policies import Fixed, Random
from raytune_rl.experiment import Experiment
from raytune_rl.records import Decision, Report, Step
from raytune_rl.rundir import layout
from raytune_rl.rundir.environment import describe_experiment
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.schemas import column_types
from raytune_rl.rundir.summary import AgentSummary, Comparison, Counters, build_summary, comparison_of
from raytune_rl.rundir.tables import TableWriter
from raytune_rl.runs import composition
from raytune_rl.runs.resume import resolved_fields
from tests.paper_experiment import make

HYPERPARAMETERS: Mapping[str, Any] = {
    "lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)),
    "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
    "batch_size": roles.batch_size(tune.choice([32, 64, 128])),
    "init": roles.initialisation(tune.choice(["kaiming", "orthogonal"])),
}
PER_TRIAL = 4

Faults = Mapping[tuple[int, int], Mapping[str, Any]]
"""Changes to the reports of some (member, segment)."""


def experiment_of(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {"hyperparameters": HYPERPARAMETERS, "agent": Random(), "segments": 12, "population": 8}
    return make(**{**fields, **changes})


class World:
    """Members whose loss shrinks by up to a third per segment, most at a learning rate of 0.01; with noise."""

    def __init__(self, controller: Controller, members: int, *, seed: int, faults: Faults | None = None) -> None:
        self.controller = controller
        self.faults = dict(faults or {})
        self.rng = np.random.default_rng(seed)
        self.decisions: dict[int, Decision] = {m: controller.begin(m) for m in range(members)}
        self.losses = dict.fromkeys(range(members), 2.0)
        self.best: dict[int, tuple[float, int]] = {}

    def play(self) -> Iterator[Step]:
        while going := [m for m, d in self.decisions.items() if not d.stop]:
            # Copies are taken before anybody trains on, as trials take them.
            copied = {m: self._copied(m) for m in going}
            losses = dict(self.losses)
            for member, (loss, _) in copied.items():
                losses[member] = loss
            self.losses = losses
            step = self.controller.step([self._report(m, copied[m][1]) for m in going])
            self.decisions |= {d.member: d for d in step.decisions}
            yield step

    def _copied(self, member: int) -> tuple[float, dict[str, int]]:
        decision = self.decisions[member]
        source, donor = decision.source, decision.source.member
        if source.kind == "member":
            return self.losses[donor], {"copied_from": donor, "copied_segment": decision.segment - 1}
        if source.kind == "checkpoint" and donor in self.best:
            loss, segment = self.best[donor]
            return loss, {"copied_from": donor, "copied_segment": segment}
        return (2.0 if source.kind == "checkpoint" else self.losses[member]), {}

    def _report(self, member: int, copied: Mapping[str, int]) -> Report:
        decision = self.decisions[member]
        lr = float(decision.hyperparameters["lr"])
        speed = 0.3 * math.exp(-((math.log10(lr) + 2.0) ** 2))
        self.losses[member] *= 1.0 - speed * self.rng.uniform(0.5, 1.0)
        loss = self.losses[member] * (1.0 + 0.02 * self.rng.standard_normal())
        report = Report(
            member=member,
            segment=decision.segment,
            steps=10 * (decision.segment + 1),
            metrics={"loss": loss, "train_loss": 0.9 * loss, "accuracy": 1.0 / (1.0 + loss)},
            hyperparameters=decision.hyperparameters,
            decision=decision.segment,
            seconds=float(self.rng.uniform(0.04, 0.06)),
            trial_id=f"trial-{member // PER_TRIAL}",
            node="here",
            **copied,
        )
        report = replace(report, **self.faults.get((member, decision.segment), {}))
        value = report.metrics.get(self.controller.metric, math.nan)
        if report.status == "ok" and math.isfinite(value):
            sign = 1 if self.controller.mode == "min" else -1
            if member not in self.best or sign * value < sign * self.best[member][0]:
                self.best[member] = (self.losses[member], decision.segment)
        return report


def write_run(
    directory: Path,
    *,
    faults: Faults | None = None,
    finished: bool = True,
    compare: bool = False,
    describe_space: bool = True,
    described: Mapping[str, Any] | None = None,
    flush_every: int = 1,
    **changes: Any,
) -> Path:
    """A run directory as ``runner.run`` leaves it; ``changes`` go into the experiment.

    Args:
        faults: reports that are changed.
        finished: whether there is a summary.
        compare: whether random search ran beside it.
        describe_space: whether ``experiment.json`` tells the search space.
        described: changes to the content of ``experiment.json``.
        flush_every: generations between two writings of the tables.
    """
    experiment = experiment_of(**changes)
    run = RunDirectory(directory).create()
    content = describe_experiment(name=experiment.name, experiment=resolved_fields(experiment), seed=experiment.seed)
    if not describe_space:
        content["experiment"]["hyperparameters"] = {}
    run.write_json(layout.EXPERIMENT, {**content, **(described or {})})
    controller = train(run, experiment, experiment.agent, faults, flush_every)
    if not finished:
        return directory
    comparison: Comparison | None = None
    if compare:
        inside = RunDirectory(run.uri("random_search"))
        inside.make_directory("")
        train(inside, experiment, Fixed(), None)
        comparison = comparison_of(
            inside.read_table(layout.SEGMENTS),
            metric=experiment.metric,
            mode=experiment.mode,
            test={"test_loss": 0.5, "test_accuracy": 0.9},
        )
    segments = run.read_table(layout.SEGMENTS)
    trials = segments["trial_id"].nunique()
    summary = build_summary(
        segments,
        run.read_table(layout.DECISIONS),
        metric=experiment.metric,
        mode=experiment.mode,
        counters=Counters(wall_s=1.3 * segments["seconds"].sum() / trials, slots=trials, decision_ms=[1.0, 2.0, 9.0]),
        agent=AgentSummary(algorithm=repr(experiment.agent)),
        incumbent=controller.incumbent,
        test={"test_loss": 0.4, "test_accuracy": 0.91} if compare else {},
        comparison=comparison,
    )
    run.write_json(layout.SUMMARY, summary)
    return directory


def train(
    run: RunDirectory, experiment: Experiment, policy: Any, faults: Faults | None, flush_every: int = 1
) -> Controller:
    assert isinstance(policy, Policy)
    controller = composition.make_controller(experiment, policy)
    writer = TableWriter(
        run,
        hyperparameters=column_types(controller.space),
        features=controller.observation.features,
        actions=[head.name.removeprefix("hp/") for head in controller.actions.heads],
    )
    world = World(controller, experiment.population, seed=experiment.seed, faults=faults)
    for count, step in enumerate(world.play(), start=1):
        writer.write(step)
        if count % flush_every == 0:
            writer.flush()
    writer.flush()
    return controller


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
