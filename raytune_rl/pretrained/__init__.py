"""The controller that is shipped with the package, meta-trained in packed worlds (``meta_train``).

``controller.safetensors`` holds its weights; ``controller.json`` records how it was made and its results in
meta-validation.
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
    """A meta-trained controller that steers any search space from the first decision on.

    It chooses the starting values itself, lets the learning rates decay in the last part of the run (``late_cosine``),
    and changes live hyperparameters that are ordered and have a role that occurred in meta-training. Others (unordered
    choices, other roles) start spread over their ranges and change only with copied weights. Populations of more than
    23 members are divided into islands of about 16, the most that occurred in meta-training, which do not copy from
    each other (``controller.islands``; not where the ensemble is the objective). For an ensemble it moves live learning
    rates (on a log scale) of the whole population together and hardly copies weights (``controller.prior``).

    Args:
        directory: another controller, as written by ``meta_train`` (``best/``); default: the one in the package.
        learn: whether it continues to learn during the run (``rllib.tokens``). It learns in an actor of its own, from
            all decisions except each member's first one, while a local copy acts. The result is saved in the run's
            ``agent/``.
        learning_rate: for learning in the run, above 0.
        anchor: weight of the KL divergence that keeps it near the weights that it began with, at least 0.
        batch: decisions per update, at least 1.

    Raises:
        BadInput: the directory holds no controller or one of another version of this package, or a number is out of
            range.
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
        """The controller that a run with ``learn=True`` ended with.

        Args:
            directory: a run directory; its ``agent/`` holds the checkpoint. Nothing is unpickled.
            settings: the constructor's arguments, except ``directory``.

        Raises:
            BadInput: the run has no such checkpoint.
        """
        try:
            checkpoint = checkpoints.newest(Path(directory) / checkpoints.NAME)
        except ValueError as error:
            raise BadInput(f"Pretrained.from_run: {error}") from None
        if checkpoint is None or checkpoint.record.get("network") != TokenAgent.network:
            raise BadInput(f"Pretrained.from_run: no Pretrained(learn=True) has steered the run in {directory}.")
        controller = cls(**settings)
        controller.directory = directory
        controller.agent = replace(controller.agent, start=from_module(saved.read_weights(checkpoint)))
        return controller

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        """The weights that it acts with now, by the names of ``controller.tokens.shapes``."""
        return from_module(self._local().weights()) if self._observation else dict(self.agent.start)

    def _usable(self, transition: Transition) -> bool:
        return transition.decision.segment > 0 and super()._usable(transition)

    def __repr__(self) -> str:
        arguments = [] if self.directory is None else [repr(str(self.directory))]
        arguments += ["learn=True"] if self.agent.learn else []
        return f"Pretrained({', '.join(arguments)})"
