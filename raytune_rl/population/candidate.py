"""The one small protocol behind which every kind of candidate stands.

A *candidate* is the recipe an experiment passes (frozen, picklable, cheap to copy). A *member* is one live copy of it
under training, inside a trial's actor. Torch tasks implement it in ``population/torch_task.py``, unchanged Ray Tune
class Trainables in ``tune/trainable.py``.
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
"""All that a member needs to go on training: numpy arrays, numbers, strings, bytes and nestings of them (so that Ray's
object store moves it without copies). Never shares memory with the live member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberContext:
    """What a member may know about its surroundings.

    Attributes:
        member: index in the population.
        seed: for all randomness of this member.
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
        signals: see ``mdp.state.SIGNALS``; leave out what is not known.
        steps: optimiser steps (reports) made in this segment.
        done: the member has finished by itself.
        predictions: see ``Report.predictions``; only of candidates that were asked for it (``Predicting``).
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
        """Change hyperparameters in place, weights untouched. Returns the effective values, read back."""
        ...

    def train(self, length: int) -> SegmentResult:
        """Train one segment of ``length`` optimiser steps (reports, for Trainables), then validate."""
        ...

    def get_state(self) -> State:
        """A snapshot of weights, optimiser, random state and counters."""
        ...

    def set_state(self, state: State) -> None:
        """Go on from a snapshot, of itself or of another member (then keeping this member's own random stream:
        the receiver of a copy must not repeat its donor's batches)."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


@runtime_checkable
class Candidate(Protocol):
    """A recipe for members. Picklable; building one must not have side effects outside the process."""

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        """Raise ``ValueError`` (one sentence) when the candidate cannot work with these hyperparameters. Runs in the
        driver before Ray starts, and must be quick."""
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
    """A candidate whose members can say what they predict, so that they can be judged together."""

    def predicting(self, kind: Kind | None = None) -> Candidate:
        """The same candidate, whose members report ``SegmentResult.predictions``, judged as a task of the ``kind`` that
        the user has declared, if any."""
        ...

    def evaluation_targets(self) -> EvaluationTargets:
        """The right answers to the examples that these predictions are about.

        Raises:
            ValueError: with one sentence, if the candidate's loss is none that predictions can be averaged under.
        """
        ...


class Pack(Protocol):
    """Trains members of one trial together, which is faster than one after the other. The members stay what they are:
    between two segments each of them has all of its state, so snapshots and copies know nothing of packs."""

    def train(self, members: Sequence[Member], length: int) -> Sequence[SegmentResult | Exception | None]:
        """A segment of those members that go together, like ``Member.train`` of each; ``None`` for each that has to
        train by itself, and what went wrong for one whose validation has raised. When it raises itself, all members are
        as they were."""
        ...

    @property
    def reason(self) -> str | None:
        """Why some of the members of the last segment could not be packed, one line; ``None`` if all were."""
        ...


@runtime_checkable
class Packable(Protocol):
    """What a candidate may offer beside the rest."""

    def pack(self) -> Pack | None:
        """A new pack for members of this candidate; ``None`` where they always train by themselves."""
        ...
