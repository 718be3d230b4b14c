"""Which members an ensemble takes and how much each counts, chosen on validation evidence.

An aggregator is a frozen dataclass of settings with one method, ``weights``. It takes the evidence of the candidates
and returns weights of shape (members,), which are not negative and sum to 1. Every aggregator keeps to a budget: the
members that get a weight cost at most ``budget`` together, by their ``costs`` (members,). With costs of 1 the budget is
a number of members, with measured seconds a latency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from raytune_rl.combining.losses import Array, Evidence, Floats
from raytune_rl.combining.simplex import minimise_on_simplex

ROUNDING = 1e-9
"""Tolerance of the budget: three members of 0.1 s must fit into 0.3 s, although 3 * 0.1 > 0.3 in floating point."""


@runtime_checkable
class Aggregator(Protocol):
    """Chooses weights. Pure: the same evidence and the same ``rng`` give the same weights.

    The candidates of a class with ``one_per_member = True`` are the best states of the population's members; those of
    other classes are all states that were kept, as for snapshot ensembles (Huang et al. 2017).
    """

    def weights(
        self, evidence: Evidence, rng: np.random.Generator, *, costs: Array | None = None, budget: float = math.inf
    ) -> Floats:
        """The weights of the candidates, shape (members,).

        Raises:
            ValueError: no candidate has a finite loss, or none is within the budget.
        """
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Equal weights for all candidates, as in a deep ensemble (Lakshminarayanan et al. 2017). The candidates are each
    member's state with the lowest loss. Those with an infinite loss are left out, and so are the worst ones if the
    budget does not suffice for all."""

    one_per_member: ClassVar[bool] = True

    def weights(
        self, evidence: Evidence, rng: np.random.Generator, *, costs: Array | None = None, budget: float = math.inf
    ) -> Floats:
        return _equal_weights(evidence, _affordable_members(evidence, costs, budget))


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Equal weights for the ``k`` candidates with the lowest losses, each from a different member."""

    one_per_member: ClassVar[bool] = True
    k: int = 4

    def __post_init__(self) -> None:
        if not _is_whole(self.k, least=1):
            raise ValueError(f"TopK.k is {self.k!r}; it must be a whole number of at least 1.")

    def weights(
        self, evidence: Evidence, rng: np.random.Generator, *, costs: Array | None = None, budget: float = math.inf
    ) -> Floats:
        return _equal_weights(evidence, _affordable_members(evidence, costs, budget)[: self.k])


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """Greedy selection with replacement (Caruana et al. 2004, sections 2.1 to 2.3).

    It starts empty, repeatedly adds the candidate that makes the combination best, and returns the best combination on
    the way. A candidate's weight is how often it was added. Two settings guard against overfitting the validation rows:
    with ``bags``, several selections from random subsets of the candidates are averaged (section 2.3); with
    ``held_back``, a share of the rows is not used to choose additions, and decides instead how many of them are kept.
    If the result is worse on all rows than the best single candidate, that candidate gets all the weight.

    Attributes:
        size: number of additions, including repeated ones.
        bags: number of selections to average; 0 = one selection from all candidates.
        bag_share: share of the candidates in a bag, in (0, 1].
        held_back: share of the rows that is held back, in [0, 1).
    """

    size: int = 24
    bags: int = 0
    bag_share: float = 0.5
    held_back: float = 0.0

    def __post_init__(self) -> None:
        if not _is_whole(self.size, least=1) or not _is_whole(self.bags, least=0):
            raise ValueError(
                f"Greedy takes whole numbers, size >= 1 and bags >= 0, not {self.size!r} and {self.bags!r}."
            )
        if not 0.0 < self.bag_share <= 1.0 or not 0.0 <= self.held_back < 1.0:
            raise ValueError(
                f"Greedy takes bag_share in (0, 1] and held_back in [0, 1), not {self.bag_share} and {self.held_back}."
            )

    def weights(
        self, evidence: Evidence, rng: np.random.Generator, *, costs: Array | None = None, budget: float = math.inf
    ) -> Floats:
        price = _prices(evidence, costs)
        ranked = _ranked(evidence, price, budget)
        total = np.zeros(len(evidence))
        for _ in range(max(1, self.bags)):
            pool = ranked
            if self.bags:
                count = max(1, round(self.bag_share * len(ranked)))
                pool = rng.permuted(ranked)[:count]
            total += self._select(evidence, pool, rng, price, budget)
        weights = _cut_to_budget(total / total.sum(), price, budget)
        best_alone = _equal_weights(evidence, ranked[:1])
        return weights if evidence.loss(weights) <= evidence.loss(best_alone) else best_alone

    def _select(
        self, evidence: Evidence, pool: Array, rng: np.random.Generator, price: Floats, budget: float
    ) -> Floats:
        """One selection from the candidates in ``pool``: weights of all candidates, (members,)."""
        held_back = round(self.held_back * evidence.rows)
        if 0 < held_back < evidence.rows:
            order = rng.permutation(evidence.rows)
            choosing, judging = evidence.take(rows=order[held_back:]), evidence.take(rows=order[:held_back])
        else:
            choosing = judging = evidence
        counts = np.zeros(len(evidence), dtype=np.int64)
        added = np.zeros_like(choosing.values[0])
        best, best_loss = counts.copy(), math.inf
        for step in range(1, self.size + 1):
            spent = float(price[counts > 0].sum())
            affordable = [m for m in pool if counts[m] or spent + price[m] <= budget + ROUNDING]
            losses = choosing.losses_of((added + choosing.values[affordable]) / step)
            chosen = affordable[int(losses.argmin())]
            counts[chosen] += 1
            added += choosing.values[chosen]
            loss = judging.loss(counts / step)
            if loss < best_loss:
                best, best_loss = counts.copy(), loss
        shares: Floats = best / max(1, best.sum())
        return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Convex:
    """The convex combination with the lowest loss (stacking with weights on the simplex; Breiman 1996).

    Attributes:
        toward_equal: this much times the squared distance of the weights from equal ones is added to the loss, against
            overfitting the validation rows.
        smallest: weights below this become 0.
    """

    toward_equal: float = 0.0
    smallest: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.toward_equal < math.inf or not 0.0 <= self.smallest < 1.0:
            raise ValueError(
                f"Convex takes toward_equal >= 0 and smallest in [0, 1), not {self.toward_equal} and {self.smallest}."
            )

    def weights(
        self, evidence: Evidence, rng: np.random.Generator, *, costs: Array | None = None, budget: float = math.inf
    ) -> Floats:
        price = _prices(evidence, costs)
        pool = np.sort(_ranked(evidence, price, budget))
        while True:
            weights = np.zeros(len(evidence))
            weights[pool] = self._fit(evidence.take(members=pool))
            used = pool[weights[pool] > 0]
            if price[used].sum() <= budget + ROUNDING:
                return weights
            pool = np.delete(used, np.argmin(weights[used] / np.maximum(price[used], ROUNDING)))

    def _fit(self, evidence: Evidence) -> Floats:
        equal = 1.0 / len(evidence)

        def loss(weights: Floats) -> float:
            return evidence.loss(weights) + self.toward_equal * float(((weights - equal) ** 2).sum())

        def slope(weights: Floats) -> Floats:
            gradient: Floats = evidence.slope(weights) + 2.0 * self.toward_equal * (weights - equal)
            return gradient

        weights = minimise_on_simplex(loss, slope, np.full(len(evidence), equal))
        weights = np.where(weights < min(self.smallest, weights.max()), 0.0, weights)
        normalised: Floats = weights / weights.sum()
        return normalised


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _prices(evidence: Evidence, costs: Array | Sequence[float] | None) -> Floats:
    prices = np.ones(len(evidence)) if costs is None else np.asarray(costs, dtype=np.float64)
    if prices.shape != (len(evidence),) or not (prices >= 0).all():
        raise ValueError(f"costs must be {len(evidence)} numbers of at least 0, one per candidate.")
    return prices


def _ranked(evidence: Evidence, prices: Floats, budget: float) -> Array:
    """The candidates that have a finite loss and cost no more than the budget on their own, the best first."""
    losses = evidence.losses()
    order = np.argsort(losses, kind="stable")
    sound = order[np.isfinite(losses[order])]
    if not len(sound):
        raise ValueError("no candidate of the ensemble has a finite loss.")
    ranked: Array = sound[prices[sound] <= budget + ROUNDING]
    if not len(ranked):
        raise ValueError(f"the budget is {budget:g}, and the cheapest candidate costs {prices[sound].min():g}.")
    return ranked


def _affordable_members(evidence: Evidence, costs: Array | None, budget: float) -> Array:
    """Candidates that fit into the budget together, taken in order of their losses, the best first."""
    prices = _prices(evidence, costs)
    chosen: list[int] = []
    spent = 0.0
    for member in _ranked(evidence, prices, budget):
        if spent + prices[member] <= budget + ROUNDING:
            chosen.append(int(member))
            spent += prices[member]
    return np.array(chosen)


def _cut_to_budget(weights: Floats, prices: Floats, budget: float) -> Floats:
    """The weights without those that are smallest for their price, as many as the budget demands, normalised."""
    weights = weights.copy()
    while prices[weights > 0].sum() > budget + ROUNDING:
        used = np.flatnonzero(weights)
        weights[used[np.argmin(weights[used] / np.maximum(prices[used], ROUNDING))]] = 0.0
    normalised: Floats = weights / weights.sum()
    return normalised


def _equal_weights(evidence: Evidence, members: Array) -> Floats:
    weights = np.zeros(len(evidence))
    weights[members] = 1.0 / len(members)
    return weights
