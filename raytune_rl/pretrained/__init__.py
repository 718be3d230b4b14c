"""The controller that comes with the package: trained beforehand in packed worlds (``meta_train``), ready at once.

``controller.safetensors`` holds its weights, ``controller.json`` how it was made and how it did in meta-validation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from raytune_rl.controller.tokens import TokenPolicy
from raytune_rl.errors import BadInput
from raytune_rl.pretrained.files import read
from raytune_rl.records import Transition
from raytune_rl.rllib import checkpoints, saved
from raytune_rl.rllib.policy import LearningPolicy
from raytune_rl.rllib.tokens import TokenAgent, from_module


class Pretrained(LearningPolicy):
    """A controller that has learned before, and steers any search space from the first decision on.

    It lets the learning rates decay in the last part of the run (``late_cosine``), chooses the starting values itself,
    and changes live hyperparameters that are ordered and whose role it has met before. What it cannot judge (choices
    among equals, roles that no meta-training had) starts anywhere, spread over the population, and stays; where weights
    are copied it comes along. Of more than 23 members it makes islands of about 16, the most that meta-training had,
    which do not copy from each other (``controller.islands``; not where the ensemble is the objective). For an ensemble
    it moves live learning rates (on a log scale) of the whole population together and copies weights hardly ever
    (``controller.prior``).

    Args:
        directory: another controller, as ``meta_train`` leaves it (``best/``); default: the one in the package.
        learn: whether it goes on learning during the run (``rllib.tokens``): in an actor of its own, from all decisions
            but the first ones, which come only once. It acts with a local copy meanwhile and is kept in the run's
            ``agent/``.
        learning_rate: of that learning, above 0.
        anchor: how firmly it is held to what it knew: the weight of a KL, at least 0.
        batch: decisions per update, at least 1.

    Raises:
        BadInput: there is no controller, it belongs to another version of this package, or a number cannot be.
    """

    agent: TokenAgent
    requirements = TokenPolicy.requirements

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        learn: bool = False,
        learning_rate: float = 1e-4,
        anchor: float = 0.1,
        batch: int = 32,
    ) -> None:
        path = Path(__file__).parent if directory is None else Path(directory)
        weights, self.record = read(path)
        self.directory = directory
        try:
            TokenPolicy(weights)
            agent = TokenAgent(start=weights, learn=learn, learning_rate=learning_rate, anchor=anchor, batch=batch)
        except ValueError as error:
            raise BadInput(f"Pretrained: {path}: {error}") from None
        super().__init__(agent)

    @classmethod
    def from_run(cls, directory: str | Path, **settings: Any) -> Pretrained:
        """The controller as a run with ``learn=True`` left it.

        Args:
            directory: a run directory; its ``agent/`` holds the checkpoint. Nothing is unpickled.
            settings: the constructor's, but ``directory``.

        Raises:
            BadInput: the run has no such checkpoint.
        """
        try:
            found = checkpoints.newest(Path(directory) / checkpoints.NAME)
        except ValueError as error:
            raise BadInput(f"Pretrained.from_run: {error}") from None
        if found is None or found.record.get("network") != TokenAgent.network:
            raise BadInput(f"Pretrained.from_run: no Pretrained(learn=True) has steered the run in {directory}.")
        controller = cls(**settings)
        controller.directory = directory
        controller.agent = replace(controller.agent, start=from_module(saved.read_weights(found)))
        return controller

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        """The weights that act now, by the names of ``controller.tokens.shapes``."""
        return from_module(self._local().weights()) if self._observation else dict(self.agent.start)

    def _usable(self, transition: Transition) -> bool:
        return transition.decision.segment > 0 and super()._usable(transition)

    def __repr__(self) -> str:
        told = [] if self.directory is None else [repr(str(self.directory))]
        return f"Pretrained({', '.join([*told, *(['learn=True'] if self.agent.learn else [])])})"
