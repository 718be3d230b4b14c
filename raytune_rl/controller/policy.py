"""What decides: the protocol that learning agents and fixed rules share.

A policy sees *situations* and answers with *choices*, one index per action head. It never sees a trial, a reward
function or a file, so the same policy serves real trials, packed populations and replays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from raytune_rl.controller.schedule import Schedule
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.records import Chunk, Value


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
    """A policy's answer: one index per head of the ``ActionSpec`` and what a learner needs beside it."""

    action: tuple[int, ...]
    logp: float = 0.0
    value: float = float("nan")
    version: int = 0
    extras: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@runtime_checkable
class Policy(Protocol):
    """Acts, and perhaps learns. ``bind`` comes first, once."""

    schedule: Schedule | None
    """The learning-rate schedule that this policy insists on; ``None`` leaves the experiment's."""
    starts: bool
    """Whether it insists on choosing the starting values itself; ``False`` leaves that to the experiment."""
    copy_every: int | None
    """The interval between copies that it insists on, in segments; ``None`` leaves the experiment's."""
    island: int | None
    """How many members it steers together: a larger population is divided into islands that do not copy from each other
    (``controller.islands``), unless the ensemble is the objective. ``None``: any number."""
    prescribed: Sequence[Mapping[str, Value]] | None
    """Values that it insists on, segment by segment, whatever its actions are; ``None`` leaves them to the actions."""

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        """Learn the sizes of the spaces. May start what takes long in the background."""
        ...

    def act(self, situations: Sequence[Situation]) -> Sequence[Choice]:
        """One choice per situation. Never blocks on learning."""
        ...

    def learn(self, chunks: Sequence[Chunk], *, wait: bool = False) -> None:
        """Take experience (possibly none: then only look for finished updates). With ``wait=True`` return when the
        update has been applied; otherwise at once."""
        ...

    def get_state(self) -> dict[str, Any]:
        """What must survive a restart and is small. A learning agent saves its weights and buffer itself (``save``)."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None: ...

    def save(self, directory: str, *, wait: bool = True) -> bool:
        """Write a complete checkpoint (weights, optimiser, replay buffer) into ``directory``; False if there is none.
        With ``wait=False`` it may appear later, all or none of it."""
        ...

    def restore(self, directory: str) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Remote(Protocol):
    """A policy whose learner may live outside this process."""

    remote: bool
    """Whether it does. Set before ``bind``."""
