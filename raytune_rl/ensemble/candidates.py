"""What an ensemble chooses from: the states that a run has kept, and averages of weights with a common origin."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from raytune_rl.analysis.lineage import find_rows, parents, path_to
from raytune_rl.combining.losses import Floats
from raytune_rl.combining.soups import soup_shares
from raytune_rl.ensemble.kept import ORIGINS, Kept, Place
from raytune_rl.mdp.score import order
from raytune_rl.population.candidate import State
from raytune_rl.population.networks import arguments_of
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Mode


def ordered(kept: Sequence[Kept], metric: str, mode: Mode) -> list[Kept]:
    """Every state once, the best checkpoints first, by their own validation; untrained ones are left out."""

    def key(one: Kept) -> tuple[int, tuple[float, float], int, int]:
        rank = order(one.state.get("metrics", {}), metric=metric, mode=mode)
        return ORIGINS.index(one.origin), rank, one.member, one.segment

    first: dict[Place, Kept] = {}
    for one in sorted(kept, key=key):
        if one.segment >= 0:
            first.setdefault(one.place, one)
    return list(first.values())


def kinship(segments: pd.DataFrame, places: Sequence[Place]) -> Callable[[Place, Place], bool]:
    """Whether the weights at two of ``places`` have been the same at some time after training began: of one member at
    different times, or of members that copied.

    Args:
        segments: the run's table.
    """
    table = segments.sort_values(["member", "segment"], ignore_index=True)
    wanted = np.array(places, dtype=np.int64).reshape(-1, 2)
    rows, parent = find_rows(table, wanted[:, 0], wanted[:, 1]), parents(table)
    ancestors = {
        place: frozenset(path_to(parent, int(row))) if row >= 0 else frozenset[int]()
        for place, row in zip(places, rows, strict=True)
    }
    return lambda one, other: bool(ancestors[one] & ancestors[other])


def averaged(ingredients: Sequence[Kept], shares: Sequence[float] | np.ndarray | None = None) -> Kept:
    """The mean of the ingredients' weights (Wortsman et al. 2022), by their ``shares`` or all alike. What is no
    floating-point number (counts) is the first one's."""
    first = ingredients[0]

    def mean(name: str) -> Any:
        arrays = [one.state["network"][name] for one in ingredients]
        if not np.issubdtype(arrays[0].dtype, np.floating):
            return arrays[0]
        doubles = [np.asarray(array, dtype=np.float64) for array in arrays]
        return np.average(doubles, axis=0, weights=shares).astype(arrays[0].dtype)

    network = {name: mean(name) for name in first.state["network"]}
    return replace(first, origin="soup", state={**first.state, "network": network})


def mixable(one: State, other: State, task: TorchTask) -> bool:
    """Whether two states are of one architecture, told by their shapes and by the arguments that their networks were
    built with; those that only regularise may differ."""
    shapes = [{name: array.shape for name, array in state["network"].items()} for state in (one, other)]
    return shapes[0] == shapes[1] and _architecture(one, task) == _architecture(other, task)


def _architecture(state: State, task: TorchTask) -> Mapping[str, Any]:
    found = arguments_of(task.network, state["hyperparameters"])
    places = task.places(found)
    return {name: value for name, value in found.items() if places[name] == "network"}


def family_soups(
    candidates: Sequence[Kept],
    losses: Sequence[float],
    *,
    related: Callable[[Kept, Kept], bool],
    judge: Callable[[Kept], float],
    deadline: float = math.inf,
) -> list[tuple[Kept, tuple[Place, ...]]]:
    """Averages of related candidates (``combining.soups``) that are better than all that they average, with their
    ingredients, the best first.

    Weights without a common origin lie in different basins and average to nothing, so each group of relatives has a
    soup of its own.

    Args:
        losses: of the candidates, on validation.
        judge: the loss of a soup, on validation.
        deadline: on the monotonic clock; soups for which there is no time are infinitely bad.
    """
    found: list[tuple[Kept, tuple[Place, ...]]] = []
    left = [int(index) for index in np.argsort(losses, kind="stable") if np.isfinite(losses[index])]
    while left:
        leader, *others = left
        family = [leader, *(index for index in others if related(candidates[leader], candidates[index]))]
        members = [candidates[index] for index in family]

        def judged(tried: Floats, members: Sequence[Kept] = members) -> Floats:
            late = time.monotonic() > deadline
            return np.array([math.inf if late else judge(_mixed(members, shares)[0]) for shares in tried])

        soup, parts = _mixed(members, soup_shares([losses[index] for index in family], judged))
        if len(parts) > 1:
            found.append((soup, parts))
        left = [index for index in left if index not in family]
    return found


def _mixed(members: Sequence[Kept], shares: Floats) -> tuple[Kept, tuple[Place, ...]]:
    """The average, and whom it is of; the first one, which is the best, gives it its place and values."""
    used = np.flatnonzero(shares > 0).tolist()
    return averaged([members[i] for i in used], shares[used]), tuple(members[i].place for i in used)
