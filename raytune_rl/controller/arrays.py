"""Array helpers of the token network and its prior, for numpy and torch alike."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np

from raytune_rl.mdp.features import MEMBER_FEATURES, SLOT_FEATURES

Array: TypeAlias = Any
"""A numpy array or a torch tensor."""

MEMBER_INDEX = {row.name: index for index, row in enumerate(MEMBER_FEATURES)}
SLOT_INDEX = {row.name: index for index, row in enumerate(SLOT_FEATURES)}
"""The index of a feature in the block about the member, and in that of a hyperparameter."""


def one_hot(index: int, size: int, like: Array, xp: Any) -> Array:
    """A vector of ``size`` that is 1 at ``index``, otherwise 0; ``like`` and ``xp`` as in ``numbers``."""
    return numbers(tuple(float(i == index) for i in range(size)), like, xp)


def numbers(values: tuple[float, ...], like: Array, xp: Any) -> Array:
    """Constants as an array: of numpy (float32) or, with ``xp`` torch, of the type and device of ``like``."""
    return _constant(values) if xp is np else like.new_tensor(values)


@cache
def _constant(values: tuple[float, ...]) -> np.ndarray:
    array = np.array(values, dtype=np.float32)
    array.setflags(write=False)  # shared between calls
    return array
