"""What a user writes: one frozen object with all settings of a run.

All fields but the candidate, the hyperparameters, the metric and its mode have defaults. Creating an ``Experiment``
starts nothing and imports neither Ray nor torch. Its fields are checked at once, so that mistakes are reported before
anything runs.
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
"""Functions that make rewards; passing one without calling it is a mistake."""

_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "mode": ("min", "max"),
    "schedule": get_args(LearningRateSchedule),
    "objective": ("single", "ensemble"),
    "start": ("spread", "agent"),
    "compare": (None, "random", "deep-ensemble"),
    "average": (True, False),
    "refit": (True, False),
}
"""The allowed values of fields that have only a few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When a run ends before its segments are used up.

    Attributes:
        seconds: after this wall time since the first segment's start.
        target: when the metric reaches this value (or falls below it for ``mode="min"``, above it for ``"max"``).
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
    """A run: the candidate to train, the hyperparameters that may change, the agent that changes them, and the budget.

    Attributes:
        candidate: a ``TorchTask``, a Ray Tune class Trainable (the class itself), a function that reports, or anything
            that implements the ``Candidate`` protocol.
        hyperparameters: names to Ray Tune domains, bare or in a role (``roles.learning_rate(tune.loguniform(...))``).
        metric: the metric that members are judged by, one of those that the candidate reports for its validation data.
        mode: ``"min"`` or ``"max"``.
        name: of the run directory; default: the name of the experiment file.
        population: number of members.
        segments: number of decisions per member; it trains ``segments * segment_length`` steps in total.
        segment_length: optimiser steps (for Trainables and functions: reports) between two decisions.
        segment_timeout: seconds after which a segment (for functions: a missing report) counts as hung; ``None`` =
            never.
        resources: of each trial, by Ray's names (``{"CPU": 1, "GPU": 0.5}``).
        members_per_trial: the number of members that share a trial; ``"auto"`` uses all slots of the machine.
        agent: the shipped controller ``Pretrained()`` (which also chooses the starting values, and keeps learning with
            ``learn=True``), an RLlib ``Agent`` that learns from scratch, or one of the rules ``Random()``, ``Fixed()``,
            ``Cosine()``, ``PBT()``.
        objective: ``"single"``: the best model counts. ``"ensemble"``: the population's joint predictions count;
            members report their predictions, and the agent sees and is rewarded for what each of them adds.
        reward: of the agent (``mdp.reward``); default: ``improvement()``, or ``mixed()`` for the ensemble.
        schedule: multiplies hyperparameters with the role learning_rate; the agent changes the base value.
        copy_every: weights may be copied between members only at every n-th segment.
        stopping: whether the agent may stop members.
        start: ``"spread"`` (a Latin hypercube over the space, regularisation at zero for a third) or ``"agent"`` (the
            agent's first action chooses).
        searcher: a Ray Tune ``Searcher`` that proposes the starting points instead.
        constants: passed to Trainables and functions in their ``config``, together with the hyperparameters.
        stop: further stop rules.
        failures: what happens to members that fail.
        floor: when a member that collapsed after a change goes back to its own best; ``None`` leaves that to the agent.
        synchronous: whether to decide for the whole population at once, and learn before the next segment. Makes runs
            reproducible bit for bit on the same machine, but members wait for each other.
        checkpoint_every: seconds between two checkpoints of a trial; after a crash, training is lost for at most this
            long.
        callbacks: Ray's logger callbacks (``MLflowLoggerCallback``, ``WandbLoggerCallback``, your own), which see each
            member as a trial. TensorBoard's files are always written, unless this is ``None``: no tracking at all.
        compare: spend the same budget on another method afterwards, and show both results. ``"random"``: random search.
            ``"deep-ensemble"``: as many seeds as members with typical hand-set values under a cosine; their ensemble is
            built like the run's own.
        average: whether the delivered model may be an average of the weights of several checkpoints, if that is better
            on validation, and its classes' probabilities be calibrated on validation (torch tasks; takes seconds).
            Random search is still represented by its best checkpoint, as other tools deliver it.
        refit: spend the last two fifths of the segments on a refit: copies of the model that would be delivered, as
            many as members, train on the rows of train *and* validation under a cosine, and their average is delivered.
            Each copy holds out a different part of the validation rows, so that there is still a validation score. For
            tasks whose validation rows resemble the others (torch tasks, ``objective="single"``).
        ensemble: how the members become an ensemble at the end of the run (torch tasks; takes seconds); ``None`` = no
            ensemble.
        seed: determines all random numbers.
        storage_path: where run directories are created; anything that Ray accepts.

    Raises:
        BadInput: (a ``ValueError``) one sentence with the field, its value and what is allowed.
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
            self._set_candidate_roles()

    def _check_fields(self) -> None:
        """Check each field by itself."""
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
        self.space()  # raises for invalid domains
        _check_resources(self.resources)

    def _check_combinations(self) -> None:
        """Check that fields fit each other."""
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

    def _set_candidate_roles(self) -> None:
        """Copy the hyperparameters' roles into the candidate, if it has a field ``roles``."""
        roles = {h.name: h.role for h in self.space()}
        if getattr(self.candidate, "roles", roles) != roles:
            object.__setattr__(self, "candidate", replace(self.candidate, roles=roles))  # type: ignore[type-var]

    def space(self) -> SearchSpace:
        """The hyperparameters as a search space. Raises ``BadInput`` for invalid domains."""
        try:
            return SearchSpace.from_specs(self.hyperparameters)
        except ValueError as error:
            raise BadInput(str(error)) from None

    def _check_refit(self) -> None:
        if not isinstance(self.candidate, TorchTask):
            raise BadInput(
                "refit is True, for which the candidate must be a TorchTask: of others the rows are not known."
            )
        requirements = {
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
        for name, (is_wrong, right) in requirements.items():
            if is_wrong:
                value = operator.attrgetter(name)(self)
                raise BadInput(f"refit is True, and {name} is {value!r}; it must be {right}.")

    @property
    def refit_segments(self) -> int:
        """The number of segments per member that the refit uses; 0 without a refit, and for replays."""
        replay = isinstance(self.agent, Policy) and self.agent.requirements.prescribed is not None
        return refit_segments(self.segments) if self.refit and not replay else 0

    @property
    def steered_segments(self) -> int:
        """The number of segments per member that the agent steers."""
        return self.segments - self.refit_segments

    @property
    def pay(self) -> Reward:
        """The reward, or the objective's default if none is given."""
        return self.reward or (mixed() if self.objective == "ensemble" else improvement())

    @property
    def kind(self) -> CandidateKind:
        """How the candidate is driven. A Trainable is recognised by the names of its base classes, without importing
        Ray. Raises ``BadInput`` if the candidate is none of the three."""
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
