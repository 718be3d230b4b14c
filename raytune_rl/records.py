"""What crosses the floors: the report a member makes and the decision it gets back.

Every part of the package speaks in these frozen dataclasses, so that the real trials, the packed populations and the
recorded traces can be exchanged for each other. They hold plain numbers, strings and tuples only: no tensors, no Ray
objects, nothing that needs a library to be read back. The one exception, ``Report.predictions``, is never kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, dataclass_transform

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value: TypeAlias = float | int | str | bool
"""A hyperparameter's value as the candidate sees it."""

Mode: TypeAlias = Literal["min", "max"]
Status: TypeAlias = Literal["ok", "diverged", "failed", "hung"]
"""How a segment ended: ``diverged`` = the metric is NaN or infinite, ``failed`` = the candidate raised,
``hung`` = it was killed after ``segment_timeout``."""

SourceKind: TypeAlias = Literal["keep", "member", "checkpoint"]

SCHEMA_VERSION = 1
"""Version of every file of a run directory. Readers refuse newer ones with a clear message."""

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """``dataclass(frozen=True, slots=True, kw_only=True)`` for classes of several fields, which pickles faster.

    Records are most of what a driver sends, receives and keeps, and by themselves such dataclasses look their fields
    up again for every object. What is pickled stays the same: the fields' values, in order.
    """
    made: Any = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    names = [one.name for one in fields(made)]
    values_of = attrgetter(*names)

    def set_values(self: T, values: Iterable[Any]) -> None:
        for name, value in zip(names, values, strict=False):
            object.__setattr__(self, name, value)

    made.__getstate__ = lambda self: values_of(self)
    made.__setstate__ = set_values
    found: type[T] = made
    return found


@record
class Source:
    """Where a member's weights for the coming segment come from.

    ``keep``: go on with its own. ``member``: the present weights of ``member``. ``checkpoint``: the best weights that
    ``member`` ever had (its own index = a roll-back).
    """

    kind: SourceKind = "keep"
    member: int | None = None
    name: str = "keep"
    """What led here, as the tables show it: an action (``keep``, ``best``, ``second``, ``incumbent``, ``own_best``) or
    ``FLOOR``."""


KEEP = Source()

FLOOR = "floor"
"""Name of the source of a decision by which the floor takes a member back to its own best (``controller.rollback``)."""


@record
class Report:
    """What one member says after one segment.

    Attributes:
        member: index in the population, from 0.
        segment: index of the segment that has ended, from 0.
        steps: optimiser steps (reports, for Trainables) that the member has made since its start, copies not counted.
        metrics: validation (and training) metrics; holds the experiment's metric, except when ``status`` is
            ``failed`` or ``hung``.
        signals: optional measurements of the training itself, by the names in ``mdp.state.SIGNALS``.
        hyperparameters: the *effective* values in the segment, read back from the candidate.
        decision: the segment whose decision was in force (smaller than ``segment`` while a copy is under way).
        seconds: the trial's training time for the segment / members trained together in it.
        copied_from: the member whose weights this segment started from, if they were copied for it.
        copied_segment: the last segment that those weights had been trained in.
        error: the candidate's traceback when ``status`` is ``failed``.
        done: the candidate says that it has finished.
        predictions: what the member predicts for a few validation examples, the same ones in every report, shape (rows,
            outputs): probabilities for a classification; ``None`` unless the experiment's objective is the ensemble.
            For the controller alone: neither tables nor a ``Step`` show them.
    """

    member: int
    segment: int
    steps: int
    metrics: Mapping[str, float]
    signals: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)
    decision: int = 0
    seconds: float = 0.0
    trial_id: str = ""
    node: str = ""
    copied_from: int | None = None
    copied_segment: int | None = None
    status: Status = "ok"
    error: str | None = None
    done: bool = False
    predictions: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@record
class Decision:
    """What happens to one member in the coming segment.

    Attributes:
        member: whom it is for.
        segment: the segment that it opens.
        hyperparameters: effective values for that segment, inside their bounds.
        positions: the values before any schedule is laid over them, one in [0, 1] per hyperparameter.
        source: where the weights come from.
        stop: the member's training ends here; the other fields are then without effect.
        action: the chosen index per action head (empty when no policy was asked).
        observation: what the policy saw, float32 values in the order of ``ObservationSpec.features``.
        extras: what the learner needs with the action (``action_logp``, ``action_dist_inputs``), by RLlib's names.
    """

    member: int
    segment: int
    hyperparameters: Mapping[str, Value]
    positions: tuple[float, ...]
    source: Source = KEEP
    stop: bool = False
    action: tuple[int, ...] = ()
    observation: tuple[float, ...] = ()
    logp: float = 0.0
    value: float = float("nan")
    policy_version: int = 0
    extras: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@record
class Transition:
    """One step of a member's episode: the decision that opened a segment, and what came of it."""

    decision: Decision
    reward: float
    next_observation: tuple[float, ...]
    terminated: bool = False
    truncated: bool = False


@record
class Chunk:
    """Consecutive transitions of one member's episode, for the learner.

    ``episode`` names the episode (``"<member>-<restarts>"``); ``start`` is the index of the first transition in it.
    """

    episode: str
    member: int
    start: int
    transitions: tuple[Transition, ...]


@record
class Incumbent:
    """The best that any member has reached so far, by validation."""

    member: int
    segment: int
    value: float
    metrics: Mapping[str, float]
    hyperparameters: Mapping[str, Value]


@record
class Step:
    """All that one call of the controller produced, for whoever writes it down.

    ``rewards[i]`` and ``opened[i]`` belong to ``reports[i]``: the decision that had opened the reported segment and
    what it was paid; its ``action`` is empty where no policy had been asked. ``decisions`` are the new ones.
    """

    reports: tuple[Report, ...]
    opened: tuple[Decision, ...]
    rewards: tuple[float, ...]
    decisions: tuple[Decision, ...]
    incumbent: Incumbent | None
