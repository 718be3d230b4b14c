"""The controller that comes with the package: trained beforehand in packed worlds (``meta_train``), ready at once.

``controller.safetensors`` holds its weights, ``controller.json`` how it was made and how it did in meta-validation.
"""

from __future__ import annotations

from pathlib import Path

from raytune_rl.controller.tokens import TokenPolicy
from raytune_rl.errors import BadInput
from raytune_rl.pretrained.files import read


class Pretrained(TokenPolicy):
    """A controller that has learned before: zero-shot on any search space, and it does not change during a run.

    It lays a cosine over the learning rates, chooses the starting values itself, and changes live hyperparameters that
    are ordered. What it cannot judge (choices among equals) starts anywhere and stays.

    Args:
        directory: another controller, as ``meta_train`` leaves it (``best/``); default: the one in the package.

    Raises:
        BadInput: there is none, or it belongs to another version of this package.
    """

    def __init__(self, directory: str | Path | None = None) -> None:
        path = Path(__file__).parent if directory is None else Path(directory)
        self.directory = directory
        weights, self.record = read(path)
        try:
            super().__init__(weights, version=1)
        except ValueError as error:
            raise BadInput(f"Pretrained: {path}: {error}") from None

    def __repr__(self) -> str:
        return "Pretrained()" if self.directory is None else f"Pretrained({str(self.directory)!r})"
