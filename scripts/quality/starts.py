"""Where the members of a population start."""

from __future__ import annotations

import numpy as np

from raytune_rl.worlds.task import WorldTask

LOWEST, HIGHEST = -5.0, 2.0
"""The learning-rate grid reaches from the hand default times 3**-5 to the default times 3**2."""
NARROW = 2.0
"""The narrow one from the default times 3**-2 to the default times 3**2."""


def uniform(task: WorldTask, count: int, rng: np.random.Generator) -> np.ndarray:
    """Anywhere in the space."""
    return rng.random((count, len(task.space)))


def default(task: WorldTask, count: int, rng: np.random.Generator) -> np.ndarray:
    """What one writes by hand: 1e-3 for Adam and 0.1 for SGD, weight decay 1e-4, nothing else; the same for all."""
    return _by_hand(task, np.full(count, _centre(task)))


def grid(task: WorldTask, count: int, rng: np.random.Generator) -> np.ndarray:
    """Learning rates evenly over ``LOWEST`` to ``HIGHEST``, the rest by hand: a factor 3 apart if there are eight.
    What lies below the space's bounds (the lowest one, with Adam) starts at the bound."""
    return _by_hand(task, _centre(task) * 3.0 ** np.linspace(LOWEST, HIGHEST, count))


def narrow_grid(task: WorldTask, count: int, rng: np.random.Generator) -> np.ndarray:
    """The same over a smaller range: with eight, a factor 1.9 apart."""
    return _by_hand(task, _centre(task) * 3.0 ** np.linspace(-NARROW, NARROW, count))


def three_rates(task: WorldTask, count: int, rng: np.random.Generator) -> np.ndarray:
    """By hand, but for the learning rate, which is a third of the default, the default, and three times it, in turn."""
    return _by_hand(task, _centre(task) * 3.0 ** (np.arange(count) % 3 - 1.0))


def _centre(task: WorldTask) -> float:
    return 0.1 if task.optimizer == "sgd" else 1e-3


def _by_hand(task: WorldTask, rates: np.ndarray) -> np.ndarray:
    values = {"weight_decay": 1e-4, "dropout": 0.0, "label_smoothing": 0.0}
    rows = [{**values, "learning_rate": float(rate)} for rate in rates]
    return np.array([task.space.encode({name: row[name] for name in task.space.names}) for row in rows])
