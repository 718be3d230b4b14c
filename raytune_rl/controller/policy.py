"""What decides: the protocol that learning agents and fixed rules share.

A policy sees *situations* and answers with *choices*, one index per action head. It never sees a trial, a reward
function or a file, so the same policy serves real trials, packed populations and replays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from raytune_rl.controller.schedule import LearningRateSchedule
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.records import Chunk, Value

Prescription: TypeAlias = Sequence[Mapping[str, Value]]
"""Hyperparameter values by segment, from the first; the last ones hold for all later segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One member at one decision point.

    Attributes:
        member: index in the population.
        segment: the segment that the choice will open, from 0.
        first: whether the choice sets the starting values (heads are then read as absolute levels).
        observation: float32 of shape (F,), in the order of ``ObservationSpec.features``.
        seed: a seed of this decision's own, derived from the experiment's seed, the member and the segment, so that
            a decision does not depend on the order in which reports arrive.
    """

    member: int
    segment: int
    first: bool
    observation: np.ndarray
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A policy's answer to one situation.

    Attributes:
        action: one index per head of the ``ActionSpec``.
        logp: natural log of the probability that the policy had given to the action; 0 if it does not sample.
        value: the return that its critic expects; NaN without a critic.
        version: of the weights that chose.
        extras: what a learner needs with the action, by RLlib's names.
        ignores_prescribed: whether the action holds even where ``PolicyRequirements.prescribed`` gives values.
    """

    action: tuple[int, ...]
    logp: float = 0.0
    value: float = float("nan")
    version: int = 0
    extras: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    ignores_prescribed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRequirements:
    """Settings that a policy needs to be what they are, whatever the experiment says. The defaults require nothing.

    Attributes:
        schedule: the learning-rate schedule; ``None`` leaves the experiment's.
        starts: whether the policy chooses the starting values itself; ``False`` leaves that to the experiment.
        copy_every: the interval between copies, in segments; ``None`` leaves the experiment's.
        island_size: how many members it steers together. A larger population is divided into islands that do not copy
            from each other (``controller.islands``), unless the ensemble is the objective. ``None``: any number.
        prescribed: values that the members get whatever the actions are; ``None`` leaves them to the actions.
    """

    schedule: LearningRateSchedule | None = None
    starts: bool = False
    copy_every: int | None = None
    island_size: int | None = None
    prescribed: Prescription | None = None


@runtime_checkable
class Policy(Protocol):
    """Acts, and perhaps learns. ``bind`` is called first, once."""

    requirements: PolicyRequirements
    """Read by the controller when it is made."""

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        """Set the spaces. May start what takes long in the background."""
        ...

    def act(self, situations: Sequence[Situation]) -> Sequence[Choice]:
        """One choice per situation. Never waits for learning."""
        ...

    def learn(self, chunks: Sequence[Chunk], *, wait: bool = False) -> None:
        """Take experience; with none, only adopt finished updates. ``wait=True`` returns when the update has been
        applied, otherwise the call returns at once."""
        ...

    def get_state(self) -> dict[str, Any]:
        """What must survive a restart and is small. A learning agent saves its weights and buffer itself (``save``)."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None: ...

    def save(self, directory: str, *, wait: bool = True) -> bool:
        """Write a complete checkpoint (weights, optimiser, replay buffer) into ``directory``.

        Returns ``False`` if there is nothing to write. With ``wait=False`` the checkpoint may appear later, but never
        in part.
        """
        ...

    def restore(self, directory: str) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Remote(Protocol):
    """A policy whose learner can live outside this process."""

    remote: bool
    """Whether it does. Set before ``bind``."""
