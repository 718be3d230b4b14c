"""Trains a population in hosts: trials that own several members and never pause (torch tasks, class Trainables)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from raytune_rl.controller.controller import Controller
from raytune_rl.ensemble.kept import ORIGINS, Kept
from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.placement import Placement
from raytune_rl.population.candidate import Candidate, State
from raytune_rl.records import Value
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.signals import Stoppable
from raytune_rl.sink import RunSink
from raytune_rl.trained import Trained
from raytune_rl.tune.host import read_snapshot, read_snapshots
from raytune_rl.tune.population import PopulationPlan, PopulationRun
from raytune_rl.tune.storage import StateStore

logger = logging.getLogger(__name__)


def train_hosted(
    experiment: Experiment,
    directory: RunDirectory,
    candidate: Candidate,
    controller: Controller,
    sink: RunSink,
    *,
    placement: Placement,
    points: Sequence[Mapping[str, Value] | None],
    stop: Stoppable,
) -> Trained:
    """Train to the end or to an interruption; takes up what ``directory`` holds.

    Raises:
        BadInput: the candidate does not report the metric.
    """
    if sink.restore():
        logger.info("going on with the run in %s", directory)
    plan = PopulationPlan(
        candidate=candidate,
        start={member: controller.begin(member, point) for member, point in enumerate(points)},
        groups=placement.groups,
        resources=experiment.resources,
        directory=str(directory),
        segment_length=experiment.segment_length,
        metric=experiment.metric,
        mode=experiment.mode,
        seed=experiment.seed,
        segment_timeout=experiment.segment_timeout,
        synchronous=experiment.synchronous,
        checkpoint_every=experiment.checkpoint_every,
        snapshot_every=_snapshot_every(experiment),
    )
    population = PopulationRun(plan, controller, sink)
    try:
        with stop.by(population.request_stop):
            outcome = population.fit()
    except ValueError as error:
        raise BadInput(str(error)) from None
    sink.flush()
    if controller.problem is not None:
        raise BadInput(controller.problem)

    def best_state() -> State | None:
        incumbent = controller.incumbent
        if incumbent is None:
            return None
        home = next(i for i, group in enumerate(plan.groups) if incumbent.member in group)
        snapshot = read_snapshot(plan.state_uris[home], incumbent.member, best=True)
        return None if snapshot is None else snapshot.state

    def export(path: Path) -> bool:
        state = best_state()
        if state is not None:
            candidate.export(state, path)
        return state is not None

    def test() -> Mapping[str, float]:
        state = best_state()
        return {} if state is None else candidate.test(state)

    @functools.lru_cache(maxsize=1)  # what is delivered and the ensemble choose from the same
    def states(most_bytes: float) -> list[Kept]:
        size = sum(StateStore(uri).size() for uri in plan.state_uris)
        if size > most_bytes:
            raise ValueError(f"the run's states take {size / 2**30:.1f} GiB")
        found = [read_snapshots(uri) for uri in plan.state_uris]
        return [
            Kept(member=one.member, segment=one.segment, origin=origin, state=one.state)
            for origin in ORIGINS
            for trial in found
            for one in trial[origin]
        ]

    return Trained(
        controller=controller,
        sink=sink,
        slots=len(plan.groups),
        decision_ms=[1e3 * seconds for seconds in outcome.decision_seconds],
        interrupted=outcome.interrupted is not None,
        export=export,
        test=test,
        states=states,
    )


def _snapshot_every(experiment: Experiment) -> int:
    """Segments between two snapshots for the ensemble; 0 for none."""
    wanted = experiment.ensemble.snapshots if experiment.ensemble is not None else 0
    return max(1, experiment.segments // (wanted + 1)) if wanted else 0
