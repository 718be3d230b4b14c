"""Puts a run together: an experiment in, a run directory out.

``run`` is what the command line calls and what a notebook can call. A run has three parts: the population under the
agent, perhaps the same budget spent on random search, and the summary. Each can be interrupted and gone on with.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_rl import composition
from raytune_rl.comparing import NAMES, compared, delivered_by, ensemble_of
from raytune_rl.controller.controller import Controller
from raytune_rl.embedded import check_address, ray_cluster, ray_is_running
from raytune_rl.experiment import Experiment
from raytune_rl.opening import begin, opened, unused, who_decides
from raytune_rl.placement import Placement, check_machine, place, this_machine
from raytune_rl.population.candidate import Candidate
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.progress import Plan, Progress, make_progress
from raytune_rl.records import Value
from raytune_rl.refitting import refitted
from raytune_rl.rllib.policy import LearningPolicy
from raytune_rl.rundir import layout
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.log import RunLog
from raytune_rl.rundir.schemas import column_types
from raytune_rl.rundir.summary import AgentSummary, Comparison, Counters, build_summary
from raytune_rl.rundir.tables import TableWriter
from raytune_rl.signals import Stoppable, stopping_on_signals
from raytune_rl.sink import RunSink
from raytune_rl.tracking import Tracker, check_callbacks
from raytune_rl.trained import Trained
from raytune_rl.tune.storage import StateStore

if TYPE_CHECKING:
    from raytune_rl.ensemble.delivery import Delivered

logger = logging.getLogger(__name__)


class RunFailed(RuntimeError):
    """The run came to nothing: one sentence why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What ``run`` returns.

    Attributes:
        directory: the run directory.
        summary: the content of its ``summary.json``; empty when the run was interrupted.
        interrupted: whether it can be gone on with.
    """

    directory: str
    summary: Mapping[str, Any]
    interrupted: bool = False


def run(
    experiment: Experiment,
    *,
    out: str | os.PathLike[str],
    resume: bool = False,
    address: str | None = None,
    source: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run an experiment into a run directory, or go on with one that was interrupted.

    Args:
        experiment: what to run.
        out: the run directory, a local path or any URI that ``pyarrow.fs`` opens.
        resume: go on with the run in ``out``; a finished one is left as it is.
        address: a Ray cluster to use instead of a local one of its own.
        source: the experiment file; its folder is shipped to a given cluster.
        progress: the screen; by default the summary only.

    Raises:
        BadInput: something that the user wrote cannot work. Found before Ray starts, but for a metric that the
            candidate does not report, which only its first report can show.
        RunFailed: nothing was trained.
    """
    progress = progress or make_progress(quiet=True)
    directory = opened(RunDirectory(out), experiment) if resume else unused(RunDirectory(out))
    if resume and directory.finished:
        summary = directory.read_json(layout.SUMMARY)
        progress.start(_screen_plan(experiment, directory))
        progress.finish(summary)
        return Outcome(directory=str(directory), summary=summary)
    candidate = composition.make_candidate(experiment)
    check_callbacks(experiment.callbacks)
    if address is not None:
        check_address(address)
    else:
        machine = this_machine()
        check_machine(experiment.resources, machine)
        if not resume and not ray_is_running() and experiment.resources.keys() <= machine.keys():
            _placed(experiment, [machine])  # trials that do not fit are refused before Ray starts, too
        if not resume:
            composition.rehearse(experiment, candidate)
    policy = composition.make_policy(experiment)
    controller = composition.make_controller(experiment, policy)
    if not resume:
        begin(directory, experiment)
    log = RunLog(directory)
    logging.getLogger("raytune_rl").addHandler(log)
    try:
        with (
            progress,
            stopping_on_signals(),
            ThreadPoolExecutor(1) as aside,  # left after Ray: what it does overlaps with the shutdown
            ray_cluster(address, working_dir=_folder(source)) as nodes,
            stopping_on_signals() as stop,  # once more: ray.init puts a SIGTERM handler of its own in place
        ):
            placement = _placement(directory, experiment, nodes, resume=resume)
            logger.info(placement.reason)
            controller.learn()  # the agent's actor starts beside the trials
            progress.start(_screen_plan(experiment, directory))
            progress.note(placement.reason)
            try:
                return _run(experiment, directory, candidate, controller, placement, progress, stop, aside)
            finally:
                policy.close()  # while its Ray is there: a call after the shutdown would start another one
    finally:
        logging.getLogger("raytune_rl").removeHandler(log)
        log.close()


def _run(
    experiment: Experiment,
    directory: RunDirectory,
    candidate: Candidate | None,
    controller: Controller,
    placement: Placement,
    progress: Progress,
    stop: Stoppable,
    aside: Executor,
) -> Outcome:
    points = composition.starting_points(experiment)
    tracker = Tracker(experiment.callbacks, directory, name=experiment.name, members=experiment.population)
    with tracker:
        ours = _train(experiment, directory, candidate, controller, placement, points, progress, stop, tracker)
        tracker.finish()
        _save_agent(controller, directory)
        if ours.interrupted:
            return Outcome(directory=str(directory), summary={}, interrupted=True)
        return _conclude(experiment, directory, ours, placement, progress, stop, aside)


def _conclude(
    experiment: Experiment,
    directory: RunDirectory,
    ours: Trained,
    placement: Placement,
    progress: Progress,
    stop: Stoppable,
    aside: Executor,
) -> Outcome:
    """What follows the training: the refit, the comparison, the summary, the page."""
    controller = ours.controller
    if controller.incumbent is None:
        raise RunFailed(_why_nothing(experiment, directory, controller))

    def train(other: Experiment, inside: RunDirectory, points: Sequence[Mapping[str, Value]]) -> Trained:
        theirs = composition.make_controller(other, composition.make_policy(other))
        its = composition.make_candidate(other)
        return _train(other, inside, its, theirs, placement, points, make_progress(quiet=True), stop)

    delivered = delivered_by(experiment, ours)
    if experiment.refit_segments and controller.stopping is None:
        progress.note("Refit: copies of the model train on, on the rows of train and validation together ...")
        finish = refitted(experiment, directory, delivered, controller, train)
        if finish.interrupted:
            return Outcome(directory=str(directory), summary={}, interrupted=True)
        delivered = finish.delivered
    comparison = None
    if experiment.compare is not None:
        progress.note(f"The same budget for {NAMES[experiment.compare]} ...")
        comparison = compared(experiment, directory, train)
        if comparison is None:
            return Outcome(directory=str(directory), summary={}, interrupted=True)
    summary = _summarise(experiment, directory, ours, delivered, comparison)
    directory.write_json(layout.SUMMARY, summary)
    aside.submit(_write_page, directory)
    progress.finish(summary)
    return Outcome(directory=str(directory), summary=summary)


def _write_page(directory: RunDirectory) -> None:
    try:  # nobody waits for what this thread raises
        from raytune_rl.analysis.page import try_report  # matplotlib takes a second, so not before it is needed
    except ImportError as error:
        logger.warning("there is no report.html: %s", error)
    else:
        try_report(directory)


def _train(
    experiment: Experiment,
    directory: RunDirectory,
    candidate: Candidate | None,
    controller: Controller,
    placement: Placement,
    points: Sequence[Mapping[str, Value] | None],
    progress: Progress,
    stop: Stoppable,
    tracker: Tracker | None = None,
) -> Trained:
    """Train a population to its end or to an interruption, writing into ``directory``."""
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
        progress=progress,
        tracker=tracker,
        seconds=experiment.stop.seconds,
    )
    if candidate is None:
        from raytune_rl.functions import train_functions

        return train_functions(experiment, directory, controller, sink, slots=len(placement.groups), points=points)
    from raytune_rl.hosted import train_hosted

    return train_hosted(
        experiment, directory, candidate, controller, sink, placement=placement, points=points, stop=stop
    )


def _summarise(
    experiment: Experiment,
    directory: RunDirectory,
    ours: Trained,
    delivered: Delivered | None,
    comparison: Comparison | None,
) -> dict[str, Any]:
    with directory.staging(layout.BEST) as path:
        exported = ours.export(path) if delivered is None else delivered.export(path)
    if not exported:
        logger.warning("the best member's trial has saved no weights, so there is no %s/", layout.BEST)
    policy = ours.controller.policy
    learner = isinstance(policy, LearningPolicy)
    segments, incumbent = directory.read_table(layout.SEGMENTS), ours.controller.incumbent
    test = ours.test() if delivered is None else delivered.test()
    ensemble = ensemble_of(experiment, ours, segments)
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
            wall_s=ours.sink.wall_s,
            slots=ours.slots,
            decision_ms=ours.decision_ms,
            failures=ours.sink.counts.failures,
            restarts=ours.sink.counts.restarts,
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


def _why_nothing(experiment: Experiment, directory: RunDirectory, controller: Controller) -> str:
    """Why a run has come to nothing, and what can be done, for people."""
    trouble = "" if controller.trouble is None else f" ({controller.trouble})"
    alive = any(state.alive for state in controller.members.values())
    advice = "" if alive else "; all were given up, so there is nothing to go on with: mend it and name another --out"
    return f"no member ever reported a finite {experiment.metric}{trouble}{advice}. See {directory.uri(layout.LOG)}."


def _placement(
    directory: RunDirectory, experiment: Experiment, nodes: Sequence[Mapping[str, float]], *, resume: bool
) -> Placement:
    """Where members train. A run that goes on keeps its groups, since each trial finds its own state again."""
    content = directory.read_json(layout.EXPERIMENT)
    if resume and "groups" in content:  # it was not interrupted before it had any
        groups = tuple(tuple(group) for group in content["groups"])
        return Placement(groups=groups, reason=f"going on in the {len(groups)} trials that the run had")
    placement = _placed(experiment, nodes)
    directory.write_json(layout.EXPERIMENT, {**content, "groups": placement.groups})
    return placement


def _placed(experiment: Experiment, nodes: Sequence[Mapping[str, float]]) -> Placement:
    return place(
        population=experiment.population,
        members_per_trial=experiment.members_per_trial,
        resources=experiment.resources,
        nodes=nodes,
    )


def _save_agent(controller: Controller, directory: RunDirectory) -> None:
    with directory.staging(layout.AGENT) as path:
        controller.policy.save(str(path))


def _folder(source: Path | None) -> str | None:
    return None if source is None else str(source.resolve().parent)


def _screen_plan(experiment: Experiment, directory: RunDirectory) -> Plan:
    return Plan(
        name=experiment.name,
        members=experiment.population,
        metric=experiment.metric,
        mode=experiment.mode,
        directory=str(directory),
        hyperparameters=experiment.space().names,
        segments=experiment.steered_segments,
        algorithm=who_decides(experiment),
        budget_s=experiment.stop.seconds,
        done=_trained_before(directory),
        loadable=isinstance(experiment.candidate, TorchTask),
        network=_needed_to_load(experiment.candidate),
    )


def _needed_to_load(candidate: object) -> str:
    """What ``raytune_rl.load`` must be given beside the directory: the network's function, if no file can name it."""
    if not isinstance(candidate, TorchTask):
        return ""
    from raytune_rl.population.export import find_factory, importable_name

    try:
        find_factory(importable_name(candidate.network), Path())
    except ValueError:
        return getattr(candidate.network, "__name__", "...").replace("<lambda>", "...")
    return ""


def _trained_before(directory: RunDirectory) -> Mapping[int, int]:
    """By member, the segments that earlier sessions of the run have trained."""
    if not directory.exists(layout.SEGMENTS):
        return {}
    return Counter(directory.read_table(layout.SEGMENTS)["member"].tolist())
