"""The small protocol that every kind of candidate implements.

A *candidate* is the recipe that an experiment passes (frozen, picklable, cheap to copy). A *member* is one live copy of
it under training, inside a trial's actor. It is implemented for torch tasks in ``population/torch_task.py``, and for
Ray Tune's class Trainables, which need no changes, in ``tune/trainable.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from raytune_rl.records import Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from raytune_rl.combining.contribution import EvaluationTargets
    from raytune_rl.combining.losses import Kind

State: TypeAlias = dict[str, Any]
"""All that a member needs to continue training: numpy arrays, numbers, strings, bytes and nestings of them (so that
Ray's object store moves it without copies). Never shares memory with the live member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberContext:
    """What a member may know about its surroundings.

    Attributes:
        member: index in the population.
        seed: of all random numbers of this member.
        device: ``"cpu"`` or ``"cuda:0"``, from the trial's resources.
    """

    member: int
    seed: int
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentResult:
    """What ``Member.train`` returns.

    Attributes:
        metrics: at least the experiment's metric.
        signals: see ``mdp.state.SIGNALS``; unknown ones are left out.
        steps: optimiser steps (for Trainables: reports) made in this segment.
        done: the member has finished by itself.
        predictions: see ``Report.predictions``; only from candidates that were asked for them (``Predicting``).
    """

    metrics: Mapping[str, float]
    signals: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    done: bool = False
    predictions: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@runtime_checkable
class Member(Protocol):
    """One candidate under training. Lives in one process, is called by one thread."""

    def apply(self, hyperparameters: Mapping[str, Value]) -> Mapping[str, Value]:
        """Change hyperparameters in place without touching the weights. Returns the values now in force."""
        ...

    def train(self, length: int) -> SegmentResult:
        """Train one segment of ``length`` optimiser steps (for Trainables: reports), then validate."""
        ...

    def get_state(self) -> State:
        """A snapshot of weights, optimiser, hyperparameters, random state and counters."""
        ...

    def set_state(self, state: State) -> None:
        """Continue from a snapshot of this member or of another one. With another's snapshot the member keeps its own
        random stream, because it must not repeat its donor's batches."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


@runtime_checkable
class Candidate(Protocol):
    """A recipe for members. Picklable; building one must not have side effects outside the process."""

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        """Raise ``ValueError`` (one sentence) if the candidate cannot work with these hyperparameters. Runs in the
        driver before Ray starts, so it must be quick."""
        ...

    def build(self, context: MemberContext, hyperparameters: Mapping[str, Value]) -> Member:
        """A new member with these starting values."""
        ...

    def export(self, state: State, directory: Path) -> None:
        """Write the model of ``state`` for users (``best/`` of the run directory)."""
        ...

    def test(self, state: State) -> Mapping[str, float]:
        """Metrics of ``state`` on the test split (names ``test_<metric>``); empty where there is no test split.
        Called once, after the run."""
        ...


@runtime_checkable
class Predicting(Protocol):
    """A candidate whose members can report their predictions, so that they can be judged as an ensemble."""

    def predicting(self, kind: Kind | None = None) -> Candidate:
        """A copy of the candidate whose members report ``SegmentResult.predictions``. They are judged as predictions
        for the ``kind`` of task that the user has declared, if any."""
        ...

    def evaluation_targets(self) -> EvaluationTargets:
        """The right answers to the examples that the predictions are about.

        Raises:
            ValueError: (one sentence) predictions cannot be averaged under the candidate's loss.
        """
        ...


class Pack(Protocol):
    """Trains members of one trial together, which is faster than one after the other. Between two segments each member
    holds its complete state, so snapshots and copies need not know about packs."""

    def train(self, members: Sequence[Member], length: int) -> Sequence[SegmentResult | Exception | None]:
        """Train one segment of all members that can be packed, with the same effect as ``Member.train`` on each.

        Returns, for each member, its result; the exception, if its validation raised one; or ``None``, if it has to
        train by itself. If the call itself raises, no member has changed.
        """
        ...

    @property
    def reason(self) -> str | None:
        """Why some members of the last segment could not be packed, in one line; ``None`` if all could."""
        ...


@runtime_checkable
class Packable(Protocol):
    """A candidate whose members may train together (optional)."""

    def pack(self) -> Pack | None:
        """A new pack for members of this candidate; ``None`` if they always train by themselves."""
        ...
