"""What a user writes: one frozen object that says everything about a run.

Everything has a default but the candidate, the hyperparameters and the metric. Making an ``Experiment`` starts nothing
and imports neither Ray nor torch; it is checked when it is made, so that a mistake is named before anything runs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.policy import Policy
from raytune_rl.controller.rollback import Floor
from raytune_rl.controller.schedule import LearningRateSchedule, refit_segments
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.errors import BadInput
from raytune_rl.hyperparameters import SearchSpace, Spec
from raytune_rl.mdp.reward import Reward, cost_aware, difference, final, improvement, mixed, team
from raytune_rl.population.candidate import Candidate, Predicting
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.pretrained import Pretrained
from raytune_rl.records import Mode
from raytune_rl.rllib.settings import Agent

CandidateKind: TypeAlias = Literal["member", "trainable", "function"]
Objective: TypeAlias = Literal["single", "ensemble"]

_REWARD_FACTORIES: tuple[Any, ...] = (improvement, final, cost_aware, team, difference, mixed)
"""They make rewards; passing one without calling it is a mistake."""

_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "mode": ("min", "max"),
    "schedule": get_args(LearningRateSchedule),
    "objective": ("single", "ensemble"),
    "start": ("spread", "agent"),
    "compare": (None, "random", "deep-ensemble"),
    "average": (True, False),
    "refit": (True, False),
}
"""The values that a field may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When a run ends before its segments are used up.

    Attributes:
        seconds: wall time since the first segment's start.
        target: the metric has reached this value (at most it for ``mode="min"``, at least it for ``"max"``).
    """

    seconds: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise BadInput(f"stop.seconds is {self.seconds}; it must be positive, or None for no limit.")
        if self.target is not None and not math.isfinite(self.target):
            raise BadInput(f"stop.target is {self.target}; it must be a number that the metric can reach, or None.")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: which candidates, what may be changed about them, who changes it, and for how long.

    Attributes:
        candidate: a ``TorchTask``, a Ray Tune class Trainable (the class itself), a function that reports, or anything
            that implements the ``Candidate`` protocol.
        hyperparameters: names to Ray Tune domains, bare or in a role (``roles.learning_rate(tune.loguniform(...))``).
        metric: what members are judged by, one of the names that the candidate reports for its validation data.
        mode: ``"min"`` or ``"max"``.
        name: names the run directory; the experiment file's name when empty.
        population: number of members.
        segments: decisions per member; its training is ``segments * segment_length`` steps.
        segment_length: optimiser steps (reports, for Trainables and functions) between two decisions.
        segment_timeout: seconds after which a segment counts as hung (of a function: after which it has not reported);
            ``None`` = never.
        resources: what one trial gets, by Ray's names (``{"CPU": 1, "GPU": 0.5}``).
        members_per_trial: members that share one trial; ``"auto"`` fills the slots that the machine has.
        agent: the shipped controller ``Pretrained()`` (which chooses the starting values, too, and goes on learning
            with ``learn=True``), an RLlib ``Agent`` that learns from nothing, or one of the rules ``Random()``,
            ``Fixed()``, ``Cosine()``, ``PBT()``.
        objective: ``"single"``: the best model counts. ``"ensemble"``: what the population is worth together; members
            report what they predict, the agent sees what each of them adds, and is paid for it.
        reward: what the agent is paid (``mdp.reward``); default: ``improvement()``, for the ensemble ``mixed()``.
        schedule: laid over hyperparameters of the role learning_rate; the agent moves the base under it.
        copy_every: weights may be copied between members at every n-th segment only.
        stopping: whether the agent may stop members.
        start: ``"spread"`` (a Latin hypercube over the space, regularisation at zero for a third) or ``"agent"`` (the
            agent's first action chooses).
        searcher: a Ray Tune ``Searcher`` that proposes the starting points instead.
        constants: passed to Trainables and functions beside the hyperparameters (their ``config``).
        stop: further stop rules.
        failures: what happens to members that fail.
        floor: when a member that a change has ruined goes back to its own best; ``None`` leaves that to the agent.
        synchronous: decide for the whole population at once, and learn before the next segment: reproducible bit for
            bit on one machine, at the price of waiting.
        checkpoint_every: seconds between two checkpoints of a trial, at most so much is trained again after a crash.
        callbacks: Ray's logger callbacks (``MLflowLoggerCallback``, ``WandbLoggerCallback``, your own), which see each
            member as a trial. TensorBoard's files are written anyway; ``None`` switches all of it off.
        compare: spends the same budget on something else afterwards and shows both: ``"random"`` search, or a
            ``"deep-ensemble"``: the hand default under a cosine with as many seeds as members, its ensemble built as
            the run's own.
        average: whether the model that is delivered may be an average of the weights of several checkpoints, where that
            is better on validation, and its classes' probabilities calibrated there (torch tasks, seconds). Random
            search is compared by its best checkpoint, as other tools give it.
        refit: spend the last two fifths of the segments on training as many copies of the model that would be delivered
            then on the rows of train *and* validation together, under a cosine; their average is delivered. Each copy
            does without another part of the validation rows, which therefore still judge. For tasks whose validation
            rows are like the others (torch tasks, ``objective="single"``).
        ensemble: how the members become an ensemble when the run is over (torch tasks, seconds); ``None`` = not.
        seed: all randomness derives from it.
        storage_path: where run directories are made; anything that Ray accepts.

    Raises:
        BadInput: (a ``ValueError``) one sentence naming the field, its value and what would be right.
    """

    candidate: Candidate | type | Callable[..., Any]
    hyperparameters: Mapping[str, Spec | Any]
    metric: str
    mode: Mode
    name: str = ""
    population: int = 8
    segments: int = 20
    segment_length: int = 1
    segment_timeout: float | None = None
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1})
    members_per_trial: int | Literal["auto"] = "auto"
    agent: Agent | Policy = field(default_factory=Pretrained)
    objective: Objective = "single"
    reward: Reward | None = None
    schedule: LearningRateSchedule = "constant"
    copy_every: int = 4
    stopping: bool = False
    start: Literal["spread", "agent"] = "spread"
    searcher: Any = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    stop: StopRule = field(default_factory=StopRule)
    failures: FailurePolicy = field(default_factory=FailurePolicy)
    floor: Floor | None = field(default_factory=Floor)
    synchronous: bool = False
    checkpoint_every: float = 10.0
    callbacks: Sequence[Any] | None = ()
    compare: Literal["random", "deep-ensemble"] | None = None
    average: bool = True
    refit: bool = False
    ensemble: Ensemble | None = field(default_factory=Ensemble)
    seed: int = 0
    storage_path: str = "results"

    def __post_init__(self) -> None:
        self._check_fields()
        self._check_combinations()
        if self.refit:
            self._check_refit()
        if self.kind == "member":
            self._tell_candidate_its_roles()

    def _check_fields(self) -> None:
        """Each field on its own."""
        for name in ("population", "segments", "segment_length", "copy_every"):
            _at_least_one(name, getattr(self, name))
        if self.members_per_trial != "auto":
            _at_least_one("members_per_trial", self.members_per_trial)
        for name, options in _OPTIONS.items():
            _one_of(name, getattr(self, name), options)
        for name, kind in (("ensemble", Ensemble), ("floor", Floor)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                article = "an" if name == "ensemble" else "a"
                raise BadInput(f"{name} is {value!r}; it must be {article} {kind.__name__}, or None for none.")
        for name in ("segment_timeout", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0 and not math.isnan(value)):
                raise BadInput(f"{name} is {value!r}; it must be a positive number of seconds.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise BadInput(f"seed is {self.seed!r}; it must be a whole number of at least 0.")
        if not isinstance(self.metric, str) or not self.metric:
            raise BadInput(f"metric is {self.metric!r}; it must be the name of a metric that the candidate reports.")
        if self.reward is not None and (not callable(self.reward) or self.reward in _REWARD_FACTORIES):
            raise BadInput(
                f"reward is {self.reward!r}; it must be a reward such as rewards.improvement(), or a function of yours "
                "(before, after, context)."
            )
        if not isinstance(self.agent, Agent | Policy):
            raise BadInput(f"agent is {self.agent!r}; it must be an Agent or a policy such as PBT() or Random().")
        if self.callbacks is not None and not isinstance(self.callbacks, list | tuple):
            raise BadInput(
                f"callbacks is a {type(self.callbacks).__name__}; it must be a list of Ray's LoggerCallbacks."
            )
        if not isinstance(self.hyperparameters, Mapping) or not self.hyperparameters:
            raise BadInput("hyperparameters is empty; name at least one, such as {'lr': tune.loguniform(1e-4, 1e-1)}.")
        self.space()  # raises for a domain that is none
        _check_resources(self.resources)

    def _check_combinations(self) -> None:
        """What fields ask of each other."""
        overlap = sorted(set(self.constants) & set(self.hyperparameters))
        if overlap:
            raise BadInput(f"constants and hyperparameters both hold {overlap[0]!r}; a name belongs to one of them.")
        predicting = isinstance(self.candidate, Predicting)
        if self.objective == "ensemble" and not predicting:
            raise BadInput(
                "objective is 'ensemble', for which the candidate must be a TorchTask: a Trainable or a function does "
                "not report what it predicts."
            )
        if self.objective == "single" and getattr(self.reward, "ensemble", False):
            raise BadInput(f"reward is {self.reward!r}, which pays for the ensemble; it needs objective='ensemble'.")
        if self.compare == "deep-ensemble" and self.ensemble is None:
            raise BadInput("compare is 'deep-ensemble', which needs an ensemble to compare; ensemble is None.")
        if self.compare == "deep-ensemble" and not predicting:
            raise BadInput(
                "compare is 'deep-ensemble', for which the candidate must be a TorchTask: of a Trainable or a function "
                "there is no ensemble; compare='random' works for all."
            )

    def _tell_candidate_its_roles(self) -> None:
        """A candidate with a field ``roles`` gets those of the hyperparameters."""
        roles = {h.name: h.role for h in self.space()}
        if getattr(self.candidate, "roles", roles) != roles:
            object.__setattr__(self, "candidate", replace(self.candidate, roles=roles))  # type: ignore[type-var]

    def space(self) -> SearchSpace:
        """The hyperparameters, checked."""
        try:
            return SearchSpace.from_specs(self.hyperparameters)
        except ValueError as error:
            raise BadInput(str(error)) from None

    def _check_refit(self) -> None:
        if not isinstance(self.candidate, TorchTask):
            raise BadInput(
                "refit is True, for which the candidate must be a TorchTask: of others the rows are not known."
            )
        wrong = {
            "metric": (
                not self.metric.startswith("validation_"),
                "one of the validation split's, such as validation_loss",
            ),
            "objective": (self.objective != "single", "'single': an ensemble is not refitted"),
            "average": (not self.average, "True: what a refit delivers is an average"),
            "segments": (self.segments < 2, "at least 2: the last two fifths of them are the refit's"),
            "population": (self.population < 2, "at least 2: one copy alone holds out half of the validation rows"),
            "compare": (self.compare == "deep-ensemble", "'random' or None: the refit is not the ensemble's"),
            "stop.seconds": (self.stop.seconds is not None, "None: a refit has its segments, not a deadline"),
        }
        for name, (is_wrong, right) in wrong.items():
            if is_wrong:
                value = operator.attrgetter(name)(self)
                raise BadInput(f"refit is True, and {name} is {value!r}; it must be {right}.")

    @property
    def refit_segments(self) -> int:
        """The segments of each member that are a refit's; a replay has none."""
        replay = isinstance(self.agent, Policy) and self.agent.requirements.prescribed is not None
        return refit_segments(self.segments) if self.refit and not replay else 0

    @property
    def steered_segments(self) -> int:
        """The segments of each member that the agent steers."""
        return self.segments - self.refit_segments

    @property
    def pay(self) -> Reward:
        """The reward, or the objective's own where none is named."""
        return self.reward or (mixed() if self.objective == "ensemble" else improvement())

    @property
    def kind(self) -> CandidateKind:
        """How the candidate is to be driven.

        Classes and functions are told apart without importing Ray: a Trainable is recognised by its ancestry.
        """
        if isinstance(self.candidate, type):
            if any(
                base.__name__ == "Trainable" and base.__module__.startswith("ray.") for base in self.candidate.mro()
            ):
                return "trainable"
            raise BadInput(
                f"candidate is the class {self.candidate.__name__}; a class must be a subclass of ray.tune.Trainable."
            )
        if isinstance(self.candidate, Candidate):
            return "member"
        if callable(self.candidate):
            return "function"
        raise BadInput(
            f"candidate is {self.candidate!r}; it must be a TorchTask, a ray.tune.Trainable class or a function."
        )


def _at_least_one(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{name} is {value!r}; it must be a whole number of at least 1.")


def _one_of(name: str, value: Any, options: tuple[Any, ...]) -> None:
    if value not in options:
        raise BadInput(f"{name} is {value!r}; it must be one of {', '.join(repr(o) for o in options)}.")


def _check_resources(resources: Mapping[str, float]) -> None:
    for name, amount in resources.items():
        if not isinstance(amount, int | float) or isinstance(amount, bool) or amount < 0 or math.isnan(amount):
            raise BadInput(f"resources[{name!r}] is {amount!r}; it must be a number of at least 0.")
    if not any(resources.values()):
        raise BadInput(f"resources is {dict(resources)!r}; a trial needs something, such as {{'CPU': 1}}.")
