"""Makes the parts of a run from an experiment: candidate, policy, controller, placement, starting points."""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from raytune_rl.combining.contribution import EvaluationTargets
from raytune_rl.combining.losses import Kind
from raytune_rl.controller.assembly import assemble
from raytune_rl.controller.controller import Controller
from raytune_rl.controller.policy import Policy
from raytune_rl.errors import OWN_FILES, BadInput, first_line, user_traceback
from raytune_rl.experiment import Experiment
from raytune_rl.hyperparameters import Spec
from raytune_rl.population.candidate import Candidate, MemberContext
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Value
from raytune_rl.rllib.settings import Agent


def make_candidate(experiment: Experiment) -> Candidate | None:
    """The candidate behind the protocol, checked against the hyperparameters, and picklable; ``None`` for a function,
    which Tune has to drive.

    Raises:
        BadInput: it cannot work with these hyperparameters, or cannot be sent to the trials.
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
        middle = space.decode([0.5] * len(space))
        candidate.check(middle)
        if experiment.refit:
            check_refit(experiment, candidate, middle)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(str(error)) from None
    check_picklable(candidate, experiment.candidate)
    checked: Candidate = candidate
    return checked


def rehearse(experiment: Experiment, candidate: Candidate | None) -> None:
    """Make one member of a torch task in this process, so that what is wrong with data, network or loss is said before
    any trial starts. (Not where trials have GPUs: what a network needs may be one.) The data stay loaded; the summary
    needs them again.

    Raises:
        BadInput: it cannot be made. What the user's own functions raise comes with their frames.
    """
    if not isinstance(candidate, TorchTask) or experiment.resources.get("GPU"):
        return
    space = experiment.space()
    try:
        candidate.build(MemberContext(member=0, seed=experiment.seed), space.decode([0.5] * len(space))).close()
    except Exception as error:
        raised_at = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, ValueError) and raised_at.startswith(OWN_FILES):  # a sentence of ours
            raise BadInput(f"candidate: {error}") from None
        told = user_traceback(error).rstrip()
        raise BadInput(f"{told}\nThe candidate cannot be made: {first_line(error)}") from None
    _warn_of_nan(candidate)


def _warn_of_nan(candidate: TorchTask) -> None:
    """A network may know what to make of it; most diverge."""
    import torch

    from raytune_rl.population.splits import load_splits

    splits = load_splits(candidate.data, torch.device("cpu"))
    for name in ("train", "validation", "test"):
        split = getattr(splits, name)
        for what in ("inputs", "targets"):
            values = None if split is None else getattr(split, what)
            if values is not None and values.is_floating_point() and not values.isfinite().all():
                logger.warning("%s of the %s split hold NaN or infinity", what, name)


def check_refit(experiment: Experiment, candidate: Any, values: Mapping[str, Value]) -> None:
    """Raise ``BadInput`` where the candidate's rows cannot all be trained on, or its states are too large; loads its
    data and makes a network, in the driver."""
    import torch

    from raytune_rl.ensemble.finishing import MOST_GIB
    from raytune_rl.population.networks import build_network
    from raytune_rl.population.refitting import CPU, pooled
    from raytune_rl.population.splits import load_splits

    try:
        pooled(load_splits(candidate.data, CPU))
    except Exception as error:
        raise BadInput(f"refit is True, and the candidate's data do not suit it: {first_line(error)}.") from None
    with torch.random.fork_rng(devices=[]):
        network = build_network(candidate.network, values, device=CPU).network
    one = sum(p.numel() * p.element_size() for p in network.parameters())
    kept = STATES_KEPT * experiment.population * one / 2**30
    if kept > MOST_GIB:
        raise BadInput(
            f"refit is True, and the states of {experiment.population} such networks take about {kept:.1f} GiB; a "
            f"refit reads them all, which it does up to {MOST_GIB:g} GiB."
        )


def declared_kind(experiment: Experiment) -> Kind | None:
    """What the user says about the task (``Ensemble.kind``): for the run's model and rewards, as for its ensemble."""
    return None if experiment.ensemble is None else experiment.ensemble.kind


def check_picklable(candidate: object, written: object) -> None:
    """Raise ``BadInput`` when Ray could not send the candidate to a trial."""
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
    """The policy of an experiment's ``agent``. It is bound to one run and may learn in it, so a given policy is copied
    and stays as it was, for the next run."""
    agent = experiment.agent
    return agent.build(experiment.population) if isinstance(agent, Agent) else copy.deepcopy(agent)


def make_controller(experiment: Experiment, policy: Policy) -> Controller:
    """The controller of an experiment. The agent begins to start in the background.

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
    """Who judges what the population predicts; loads the candidate's data, in the driver.

    Raises:
        BadInput: the data cannot be loaded.
        ValueError: the loss does not suit.
    """
    try:
        found: EvaluationTargets = candidate.predicting(kind).evaluation_targets()
    except ValueError:
        raise
    except Exception as error:
        raise BadInput(
            f"objective is 'ensemble', and the candidate's data cannot be loaded: {first_line(error)}"
        ) from None
    return found


def optimiser_sign(candidate: object) -> float:
    """The feature ``optimiser`` (``mdp.features``) of a candidate, as far as it tells."""
    return {"sgd": -1.0, "adam": 1.0, "adamw": 1.0}.get(str(getattr(candidate, "optimizer", None)), 0.0)


def starting_points(experiment: Experiment) -> list[Mapping[str, Value] | None]:
    """What each member starts with: the searcher's proposals, or ``None`` for the controller's own choice.

    Raises:
        BadInput: the searcher gives none.
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


def random_points(experiment: Experiment) -> list[Mapping[str, Value]]:
    """Starting points of plain random search over the same space, one per member."""
    space = experiment.space()
    rng = np.random.default_rng([experiment.seed, 0xBA5E])
    return [space.decode(space.sample(rng)) for _ in range(experiment.population)]


logger = logging.getLogger(__name__)

STATES_KEPT = 6
"""Networks' worth of a member's states: its best and its last weights, each with two moments of the optimiser."""

HAND_DEFAULTS: Mapping[str, float] = {
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "augmentation": 0.0,
    "momentum": 0.9,
    "batch_size": 64,
    "frozen_layers": 0,
}
SGD_LEARNING_RATE = 0.1


def hand_default(experiment: Experiment) -> Mapping[str, Value]:
    """What one writes by hand, by role, inside the bounds: 1e-3 for Adam and 0.1 for SGD, weight decay 1e-4, no other
    regularisation. What has no role stands in the middle of its range; of a choice, its first option."""
    known = dict(HAND_DEFAULTS)
    if optimiser_sign(experiment.candidate) < 0:
        known["learning_rate"] = SGD_LEARNING_RATE
    values: dict[str, Value] = {}
    for h in experiment.space():
        try:
            values[h.name] = h.decode(h.encode(known[h.role]))
        except (KeyError, ValueError):  # no role, or a choice without that option
            values[h.name] = h.decode(0.5 if h.is_ordered else 0.0)
    return values


def resolved_fields(experiment: Experiment) -> dict[str, Any]:
    """All fields of an experiment by name, for ``experiment.json``. Hyperparameters with what they were taken for:
    kind, role, range, scale. A resumed run must have the same."""
    space = {h.name: {"kind": type(h).__name__, **asdict(h)} for h in experiment.space()}
    resolved = {"hyperparameters": space, "reward": experiment.pay}
    return {f.name: getattr(experiment, f.name) for f in fields(experiment)} | resolved
