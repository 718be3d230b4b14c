"""Runs an experiment into a run directory.

The command line calls ``run``, and so can a notebook. A run trains the population under its agent, then, if the
experiment says so, a refit and a comparison (random search or a deep ensemble), and ends with the summary and the
report. Whichever part is interrupted, ``resume`` continues it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_rl.controller.controller import Controller
from raytune_rl.experiment import Experiment
from raytune_rl.population.candidate import Candidate
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.progress import Progress, make_progress
from raytune_rl.records import Value
from raytune_rl.rllib.policy import LearningPolicy
from raytune_rl.rundir import layout
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.log import logging_into
from raytune_rl.rundir.schemas import column_types
from raytune_rl.rundir.summary import AgentSummary, Comparison, Counters, build_summary
from raytune_rl.rundir.tables import TableWriter
from raytune_rl.runs import composition
from raytune_rl.runs.cluster import check_address, ray_cluster, ray_is_running
from raytune_rl.runs.comparison import NAMES, compared, delivered_by, ensemble_of
from raytune_rl.runs.placement import Placement, check_machine, place_members, placement_of_run, this_machine
from raytune_rl.runs.refit import refitted
from raytune_rl.runs.resume import begin, opened, unused, who_decides
from raytune_rl.runs.screen_plan import screen_plan
from raytune_rl.runs.sink import RunSink
from raytune_rl.runs.trained import TrainedPopulation
from raytune_rl.signals import Stoppable, stopping_on_signals
from raytune_rl.tracking import Tracker, check_callbacks
from raytune_rl.tune.storage import StateStore

if TYPE_CHECKING:
    from raytune_rl.ensemble.delivery import Delivered

logger = logging.getLogger(__name__)


class RunFailed(RuntimeError):
    """The run has no result. The message is one sentence that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What ``run`` returns.

    Attributes:
        directory: the run directory.
        summary: the content of its ``summary.json``; empty when the run was interrupted.
        interrupted: whether ``resume`` can continue it.
    """

    directory: str
    summary: Mapping[str, Any]
    interrupted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """What all parts of a run need while Ray is running. Comparisons and the refit train in sessions of their own, with
    another experiment, in a directory inside this one."""

    experiment: Experiment
    directory: RunDirectory
    placement: Placement
    progress: Progress
    stop: Stoppable

    @property
    def interrupted(self) -> Outcome:
        return Outcome(directory=str(self.directory), summary={}, interrupted=True)


def run(
    experiment: Experiment,
    *,
    out: str | os.PathLike[str],
    resume: bool = False,
    address: str | None = None,
    source: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run an experiment into a run directory, or continue one that was interrupted.

    Args:
        experiment: what to run.
        out: the run directory, a local path or any URI that ``pyarrow.fs`` opens.
        resume: continue the run in ``out``; a finished one is not changed.
        address: a Ray cluster to use instead of a local Ray.
        source: the experiment file; its folder is sent to the cluster at ``address``.
        progress: the display; by default, it shows the summary only.

    Raises:
        BadInput: something that the user wrote cannot work. Raised before Ray starts if possible; a metric that the
            candidate does not report shows only in its first report.
        RunFailed: no member reported a finite value of the metric.
    """
    progress = progress or make_progress(quiet=True)
    directory = opened(RunDirectory(out), experiment) if resume else unused(RunDirectory(out))
    if resume and directory.finished:
        summary = directory.read_json(layout.SUMMARY)
        progress.start(screen_plan(experiment, directory))
        progress.finish(summary)
        return Outcome(directory=str(directory), summary=summary)
    candidate = composition.make_candidate(experiment)
    _check(experiment, candidate, address=address, resume=resume)
    policy = composition.make_policy(experiment)
    controller = composition.make_controller(experiment, policy)
    if not resume:
        begin(directory, experiment)
    with (
        logging_into(directory),
        progress,
        stopping_on_signals(),
        ThreadPoolExecutor(1) as background,  # entered before Ray, so that its work overlaps with Ray's shutdown
        ray_cluster(address, working_dir=None if source is None else str(source.resolve().parent)) as nodes,
        stopping_on_signals() as stop,  # once more: ray.init installs a SIGTERM handler of its own
    ):
        placement = placement_of_run(directory, experiment, nodes, resume=resume)
        logger.info(placement.reason)
        controller.learn()  # the agent's actor starts while the trials do
        progress.start(screen_plan(experiment, directory))
        progress.note(placement.reason)
        session = _Session(
            experiment=experiment, directory=directory, placement=placement, progress=progress, stop=stop
        )
        try:
            return _run(session, candidate, controller, background)
        finally:
            policy.close()  # before Ray is shut down: a later call would start another Ray


def _check(experiment: Experiment, candidate: Candidate | None, *, address: str | None, resume: bool) -> None:
    """Raise ``BadInput`` for mistakes that can be found before Ray starts."""
    check_callbacks(experiment.callbacks)
    if experiment.refit:
        from raytune_rl.runs.rehearsal import check_refit

        check_refit(experiment, candidate)
    if address is not None:
        check_address(address)
        return
    machine = this_machine()
    check_machine(experiment.resources, machine)
    if resume:
        return
    if not ray_is_running() and experiment.resources.keys() <= machine.keys():
        place_members(experiment, [machine])  # raises if the trials do not fit
    if isinstance(candidate, TorchTask):
        from raytune_rl.runs.rehearsal import rehearse

        rehearse(experiment, candidate)


def _run(session: _Session, candidate: Candidate | None, controller: Controller, background: Executor) -> Outcome:
    experiment, directory = session.experiment, session.directory
    points = composition.starting_points(experiment)
    tracker = Tracker(experiment.callbacks, directory, name=experiment.name, members=experiment.population)
    with tracker:
        trained = _train(session, candidate, controller, points, tracker)
        tracker.finish()
        with directory.staging(layout.AGENT) as path:
            controller.policy.save(str(path))
        if trained.interrupted:
            return session.interrupted
        return _conclude(session, trained, background)


def _conclude(session: _Session, trained: TrainedPopulation, background: Executor) -> Outcome:
    """Do what follows the training: the refit, the comparison, the summary and the report."""
    experiment, directory, controller = session.experiment, session.directory, trained.controller
    if controller.incumbent is None:
        raise RunFailed(_failure_text(experiment, directory, controller))

    def train(other: Experiment, inside: RunDirectory, points: Sequence[Mapping[str, Value]]) -> TrainedPopulation:
        return _train(
            replace(session, experiment=other, directory=inside, progress=make_progress(quiet=True)),
            composition.make_candidate(other),
            composition.make_controller(other, composition.make_policy(other)),
            points,
        )

    delivered = delivered_by(experiment, trained)
    if experiment.refit_segments and controller.stopping is None:
        session.progress.note("Refit: copies of the model train on, on the rows of train and validation together ...")
        refit = refitted(experiment, directory, delivered, controller, train)
        if refit.interrupted:
            return session.interrupted
        delivered = refit.delivered
    comparison = None
    if experiment.compare is not None:
        session.progress.note(f"The same budget for {NAMES[experiment.compare]} ...")
        comparison = compared(experiment, directory, train)
        if comparison is None:
            return session.interrupted
    summary = _summarise(experiment, directory, trained, delivered, comparison)
    directory.write_json(layout.SUMMARY, summary)
    background.submit(_write_page, directory)
    session.progress.finish(summary)
    return Outcome(directory=str(directory), summary=summary)


def _write_page(directory: RunDirectory) -> None:
    try:  # log exceptions here, as nobody asks this thread for its result
        from raytune_rl.analysis.page import try_report  # imported late, since matplotlib takes a second
    except ImportError as error:
        logger.warning("there is no report.html: %s", error)
    else:
        try_report(directory)


def _train(
    session: _Session,
    candidate: Candidate | None,
    controller: Controller,
    points: Sequence[Mapping[str, Value] | None],
    tracker: Tracker | None = None,
) -> TrainedPopulation:
    """Train a population to its end or to an interruption, writing into the session's directory."""
    experiment, directory = session.experiment, session.directory
    tables = TableWriter(
        directory,
        hyperparameters=column_types(controller.space),
        features=controller.observation.features,
        actions=[head.name.removeprefix("hp/") for head in controller.actions.heads],
    )
    hosted = candidate is not None
    sink = RunSink(
        controller,
        tables,
        StateStore(directory.uri(f"{layout.STATE}/driver")),
        keeps_controller=hosted,
        agent_directory=str(directory.path(layout.AGENT)) if hosted and directory.local is not None else None,
        progress=session.progress,
        tracker=tracker,
        seconds=experiment.stop.seconds,
    )
    groups = session.placement.groups
    if candidate is None:
        from raytune_rl.runs.functions import train_functions

        return train_functions(experiment, directory, controller, sink, slots=len(groups), points=points)
    from raytune_rl.runs.hosted import train_hosted

    return train_hosted(
        experiment, directory, candidate, controller, sink, groups=groups, points=points, stop=session.stop
    )


def _summarise(
    experiment: Experiment,
    directory: RunDirectory,
    trained: TrainedPopulation,
    delivered: Delivered | None,
    comparison: Comparison | None,
) -> dict[str, Any]:
    with directory.staging(layout.BEST) as path:
        exported = trained.export(path) if delivered is None else delivered.export(path)
    if not exported:
        logger.warning("the best member's trial has saved no weights, so there is no %s/", layout.BEST)
    policy = trained.controller.policy
    learner = isinstance(policy, LearningPolicy)
    segments, incumbent = directory.read_table(layout.SEGMENTS), trained.controller.incumbent
    test = trained.test() if delivered is None else delivered.test()
    ensemble = ensemble_of(experiment, trained, segments)
    if ensemble is not None and incumbent is not None:
        with directory.staging(layout.ENSEMBLE) as path:
            best = {**(incumbent.metrics if delivered is None else delivered.metrics), **test}
            ensemble.save(path, segments, name=experiment.name, directory=str(directory), best=best)
    return build_summary(
        segments,
        directory.read_table(layout.DECISIONS),
        metric=experiment.metric,
        mode=experiment.mode,
        counters=Counters(
            wall_s=trained.sink.wall_s,
            slots=trained.slots,
            decision_ms=trained.decision_ms,
            failures=trained.sink.counts.failures,
            restarts=trained.sink.counts.restarts,
        ),
        agent=AgentSummary(
            algorithm=who_decides(experiment),
            checkpoint=layout.AGENT if learner and directory.exists(layout.AGENT) else None,
            transitions=getattr(policy, "transitions", 0),
        ),
        best_path=layout.BEST if exported else None,
        incumbent=incumbent,
        delivered=None if delivered is None else delivered.summary(),
        test=test,
        comparison=comparison,
        ensemble=None if ensemble is None else ensemble.summary(layout.ENSEMBLE),
    )


def _failure_text(experiment: Experiment, directory: RunDirectory, controller: Controller) -> str:
    """Why a run has no result, and what the user can do."""
    trouble = "" if controller.trouble is None else f" ({controller.trouble})"
    alive = any(state.alive for state in controller.members.values())
    advice = "" if alive else "; all were given up, so there is nothing to go on with: mend it and name another --out"
    return f"no member ever reported a finite {experiment.metric}{trouble}{advice}. See {directory.uri(layout.LOG)}."
