"""The settings of the learning agent: plain values, checked when they are given, without importing Ray or torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

from raytune_rl.rllib import checkpoints

if TYPE_CHECKING:
    from raytune_rl.rllib.policy import LearningPolicy

Agents: TypeAlias = Literal["one", "members", "hyperparameters"]
Modules: TypeAlias = Literal["shared", "role", "own"]
AlgorithmName: TypeAlias = Literal["PPO", "DQN", "SAC", "APPO"]
ALGORITHM_NAMES: tuple[str, ...] = get_args(AlgorithmName)
TEAM_ALGORITHMS = ("PPO", "APPO")
"""The algorithms that support several agents."""


@dataclass(frozen=True, kw_only=True)
class Agent:
    """A learning meta-agent: one of RLlib's algorithms and how it learns.

    ``None`` means the algorithm's default, chosen for short episodes and few transitions (``rllib/algorithms.py``).

    Attributes:
        algorithm: ``PPO`` and ``APPO`` choose all heads of an action at once, ``DQN`` one head after the other, ``SAC``
            a point in a box that is cut into bins.
        learning_rate: of the network's optimiser, above 0.
        gamma: discount per segment, in (0, 1]. Episodes are short, so it should be near 1.
        batch: transitions (decisions) per call of the learner, at least 1.
        hidden: widths of the hidden layers.
        training: further arguments of the algorithm's ``AlgorithmConfig.training``, by their RLlib names.
        checkpoint: a directory with an agent's checkpoint to start from (see ``from_run``).
        learn: ``False`` acts with the checkpoint's weights (or the untrained network) and never changes them.
        num_gpus: GPUs of the learning actor; 0 = CPU, which is faster for a network this small.
        agents: what counts as an agent: ``"one"`` agent that decides for each member separately; every one of the
            ``"members"`` in a multi-agent episode; or every one of the ``"hyperparameters"`` of each member.
        modules: which agents share a network: all (``"shared"``), those of one ``"role"``, or none (``"own"``);
            ``rllib/team.py`` has the table.
        population: number of networks where each member has its ``"own"`` (further members share them in turn);
            ``None``: the experiment's population.
    """

    network: ClassVar[str] = "layers"
    """The kind of network in its checkpoints: dense layers for one search space."""

    algorithm: AlgorithmName = "PPO"
    learning_rate: float | None = None
    gamma: float = 0.99
    batch: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    training: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    learn: bool = True
    num_gpus: float = 0
    agents: Agents = "one"
    modules: Modules = "shared"
    population: int | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHM_NAMES:
            raise ValueError(f"Agent.algorithm is {self.algorithm!r}: use one of {', '.join(ALGORITHM_NAMES)}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"Agent.learning_rate is {self.learning_rate!r}: it must be above 0 and finite.")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"Agent.gamma is {self.gamma!r}: it must lie in (0, 1].")
        if self.batch is not None and not (_is_int(self.batch) and self.batch >= 1):
            raise ValueError(f"Agent.batch is {self.batch!r}: it must be a whole number of at least 1.")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.hidden or not all(_is_int(width) and width >= 1 for width in self.hidden):
            raise ValueError(f"Agent.hidden is {self.hidden!r}: give the width, at least 1, of one layer or several.")
        if not all(isinstance(name, str) for name in self.training):
            raise ValueError("Agent.training must map RLlib's argument names (strings) to values.")
        if not 0 <= self.num_gpus < math.inf:
            raise ValueError(f"Agent.num_gpus is {self.num_gpus!r}: it must be 0 or more.")
        object.__setattr__(self, "training", dict(self.training))
        for name, options in (("agents", get_args(Agents)), ("modules", get_args(Modules))):
            if getattr(self, name) not in options:
                raise ValueError(f"Agent.{name} is {getattr(self, name)!r}: use one of {', '.join(options)}.")
        if self.agents == "one" and self.modules != "shared":
            raise ValueError(f"Agent.modules is {self.modules!r}: a single agent (agents='one') has one network.")
        if self.agents != "one" and self.algorithm not in TEAM_ALGORITHMS:
            raise ValueError(
                f"Agent.agents is {self.agents!r}: several agents learn with {' or '.join(TEAM_ALGORITHMS)}, "
                f"not with {self.algorithm}."
            )
        if self.population is not None and not (_is_int(self.population) and self.population >= 1):
            raise ValueError(f"Agent.population is {self.population!r}: it must be a whole number of at least 1.")
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", str(self.checkpoint))

    @classmethod
    def from_run(cls, directory: str | Path, **changes: Any) -> Agent:
        """The agent of another run, to be trained on.

        Args:
            directory: a run directory; its ``agent/`` holds the checkpoint.
            changes: fields with other values, for instance ``learn=False``.

        Raises:
            ValueError: there is no usable checkpoint. Whether its spaces fit is checked when the experiment starts,
                which raises a ``ValueError`` if they do not.
        """
        path = Path(directory) / checkpoints.NAME
        checkpoint = checkpoints.newest(path)
        if checkpoint is None:
            raise ValueError(f"Agent.from_run: {str(directory)!r} has no complete agent checkpoint in {path.name}/.")
        if checkpoint.record.get("network", cls.network) != cls.network:
            raise ValueError(
                f"Agent.from_run: {str(directory)!r} was steered by a Pretrained; use Pretrained.from_run."
            )
        saved = {**checkpoint.record["agent"], "checkpoint": str(path.resolve()), "learn": True}
        return cls(**{**saved, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``experiment.json`` and the checkpoint's record."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "hidden": list(self.hidden), "training": dict(self.training)}

    def build(self, population: int | None = None) -> LearningPolicy:
        """A policy with these settings, not bound yet; ``population``: the number of members, if known."""
        from raytune_rl.rllib.policy import LearningPolicy

        return LearningPolicy(self if self.population else dataclasses.replace(self, population=population))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
