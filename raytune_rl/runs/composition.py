"""Makes the parts of a run from an experiment: candidate, policy, controller and starting points."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from raytune_rl.combining.contribution import EvaluationTargets
from raytune_rl.combining.losses import Kind
from raytune_rl.controller.assembly import assemble
from raytune_rl.controller.controller import Controller
from raytune_rl.controller.policy import Policy
from raytune_rl.errors import BadInput, first_line
from raytune_rl.experiment import Experiment
from raytune_rl.hyperparameters import Spec
from raytune_rl.population.candidate import Candidate
from raytune_rl.records import Value
from raytune_rl.rllib.settings import Agent


def make_candidate(experiment: Experiment) -> Candidate | None:
    """The experiment's candidate as a ``Candidate``, checked against the hyperparameters; ``None`` for a function,
    which Tune has to drive.

    Raises:
        BadInput: it cannot work with these hyperparameters, or cannot be pickled to be sent to the trials.
    """
    candidate: Any = experiment.candidate
    if experiment.objective == "ensemble":
        candidate = candidate.predicting(declared_kind(experiment))
    if experiment.kind == "function":
        check_picklable(candidate, candidate)
        return None
    try:
        if experiment.kind == "trainable":
            from raytune_rl.tune.trainable import TrainableTask

            candidate = TrainableTask(trainable=candidate, config=dict(experiment.constants))
        space = experiment.space()
        candidate.check(space.decode([0.5] * len(space)))
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(str(error)) from None
    check_picklable(candidate, experiment.candidate)
    checked: Candidate = candidate
    return checked


def declared_kind(experiment: Experiment) -> Kind | None:
    """The kind of task that the user has declared (``Ensemble.kind``). It also applies to the run's model and rewards,
    not only to its ensemble."""
    return None if experiment.ensemble is None else experiment.ensemble.kind


def check_picklable(candidate: object, written: object) -> None:
    """Raise ``BadInput`` if Ray cannot send the candidate to a trial; ``written`` is the candidate in the user's file,
    which the message names."""
    from ray import cloudpickle

    try:
        cloudpickle.dumps(candidate)
    except Exception as error:
        name = getattr(written, "__name__", type(written).__name__)
        raise BadInput(
            f"candidate {name} cannot be pickled, which Ray needs to send it to the trials ({first_line(error)}); "
            "open files, locks and connections inside it, not outside."
        ) from None


def make_policy(experiment: Experiment) -> Policy:
    """The policy of an experiment's ``agent``. A policy is bound to one run and may learn in it, so one that the user
    passes is copied, and can be used again in the next run."""
    agent = experiment.agent
    return agent.build(experiment.population) if isinstance(agent, Agent) else copy.deepcopy(agent)


def make_controller(experiment: Experiment, policy: Policy) -> Controller:
    """The controller of an experiment. Its agent starts in the background.

    Raises:
        BadInput: the agent's checkpoint does not fit the experiment, or its loss or data do not suit the objective.
    """
    try:
        return assemble(
            space=experiment.space(),
            policy=policy,
            reward=experiment.pay,
            metric=experiment.metric,
            mode=experiment.mode,
            population=experiment.population,
            segments=experiment.segments,
            end=experiment.steered_segments,
            synchronous=experiment.synchronous,
            seed=experiment.seed,
            copy_every=experiment.copy_every,
            optimiser=optimiser_sign(experiment.candidate),
            stopping=experiment.stopping,
            schedule=experiment.schedule,
            target=experiment.stop.target,
            agent_starts=experiment.start == "agent",
            failures=experiment.failures,
            floor=experiment.floor,
            evaluation_targets=make_evaluation_targets(experiment.candidate, declared_kind(experiment))
            if experiment.objective == "ensemble"
            else None,
        )
    except ValueError as error:
        raise BadInput(str(error)) from None


def make_evaluation_targets(candidate: Any, kind: Kind | None) -> EvaluationTargets:
    """The right answers that the population's predictions are judged by. Loads the candidate's data, in the driver.

    Raises:
        BadInput: the data cannot be loaded.
        ValueError: predictions cannot be averaged under the candidate's loss.
    """
    try:
        targets: EvaluationTargets = candidate.predicting(kind).evaluation_targets()
    except ValueError:
        raise
    except Exception as error:
        raise BadInput(
            f"objective is 'ensemble', and the candidate's data cannot be loaded: {first_line(error)}"
        ) from None
    return targets


def optimiser_sign(candidate: object) -> float:
    """The feature ``optimiser`` (``mdp.features``) of a candidate: -1 for SGD, 1 for Adam and AdamW, 0 if unknown."""
    return {"sgd": -1.0, "adam": 1.0, "adamw": 1.0}.get(str(getattr(candidate, "optimizer", None)), 0.0)


def starting_points(experiment: Experiment) -> list[Mapping[str, Value] | None]:
    """Each member's starting values: the searcher's proposals, or ``None`` for the controller's choice.

    Raises:
        BadInput: the searcher does not propose a value for each hyperparameter.
    """
    if experiment.searcher is None:
        return [None] * experiment.population
    domains = {n: s.domain if isinstance(s, Spec) else s for n, s in experiment.hyperparameters.items()}
    searcher = experiment.searcher
    searcher.set_search_properties(experiment.metric, experiment.mode, domains)
    names = experiment.space().names
    points: list[Mapping[str, Value] | None] = []
    for member in range(experiment.population):
        proposal = searcher.suggest(f"member-{member}")
        if not isinstance(proposal, Mapping) or any(name not in proposal for name in names):
            raise BadInput(
                f"searcher {type(searcher).__name__} proposed {proposal!r} for member {member}; it must propose "
                f"a value for each of {', '.join(names)}."
            )
        points.append({name: proposal[name] for name in names})
    return points
