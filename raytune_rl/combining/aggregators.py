"""Which members an ensemble takes and how much each counts, chosen on validation evidence.

An aggregator is a frozen setting with one method, ``weights``: evidence of the candidates in, weights out, shape
(members,), none negative, their sum one. Every one keeps to a budget: with ``costs`` (members,) the distinct members
that get a weight cost at most ``budget`` together. Costs of one make that a number of members, measured seconds a
latency.
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
"""Three members of 0.1 s fit into 0.3 s, whatever 3 * 0.1 is in binary."""


@runtime_checkable
class Aggregator(Protocol):
    """Chooses weights. Pure: the same evidence and the same ``rng`` give the same weights.

    A class that has ``one_per_member = True`` is shown the best state of each member of a population, all others every
    state that was kept, as for snapshot ensembles (Huang et al. 2017).
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
    """All candidates alike, as in a deep ensemble (Lakshminarayanan et al. 2017): of each member the state with the
    lowest loss, of which soups are. Those with an infinite loss are left out, and the worst where a budget does not
    reach for all."""

    one_per_member: ClassVar[bool] = True

    def weights(
        self, evidence: Evidence, rng: np.random.Generator, *, costs: Array | None = None, budget: float = math.inf
    ) -> Floats:
        return _equal(evidence, _affordable(evidence, costs, budget))


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The ``k`` best candidates by their own losses, alike, each of another member."""

    one_per_member: ClassVar[bool] = True
    k: int = 4

    def __post_init__(self) -> None:
        if not _is_whole(self.k, least=1):
            raise ValueError(f"TopK.k is {self.k!r}; it must be a whole number of at least 1.")

    def weights(
        self, evidence: Evidence, rng: np.random.Generator, *, costs: Array | None = None, budget: float = math.inf
    ) -> Floats:
        return _equal(evidence, _affordable(evidence, costs, budget)[: self.k])


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """Greedy selection with replacement (Caruana et al. 2004, sections 2.1 to 2.3).

    Starts empty, adds again and again the candidate that makes the combination best, and keeps the best combination on
    the way; how often a candidate was taken is its weight. Two guards against choosing what only the validation rows
    liked: ``bags`` selections among random halves of the candidates, averaged (section 2.3), and ``held_back``, a share
    of the rows that has no say in what is added and decides how many additions are kept. Where the outcome is worse
    than the best single candidate, on all rows, it is that candidate.

    Attributes:
        size: additions, repeated ones included.
        bags: selections to average; 0 = one selection among all candidates.
        bag_share: of the candidates that a bag may take, in (0, 1].
        held_back: of the rows, in [0, 1).
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
        weights = _within(total / total.sum(), price, budget)
        alone = _one(evidence, ranked[0])
        return weights if evidence.loss(weights) <= evidence.loss(alone) else alone

    def _select(
        self, evidence: Evidence, pool: Array, rng: np.random.Generator, price: Floats, budget: float
    ) -> Floats:
        """One selection among the candidates ``pool``: their weights."""
        apart = round(self.held_back * evidence.rows)
        if 0 < apart < evidence.rows:
            order = rng.permutation(evidence.rows)
            choosing, judging = evidence.take(rows=order[apart:]), evidence.take(rows=order[:apart])
        else:
            choosing = judging = evidence
        counts = np.zeros(len(evidence), dtype=np.int64)
        added = np.zeros_like(choosing.values[0])
        best, best_loss = counts.copy(), math.inf
        for step in range(1, self.size + 1):
            spent = float(price[counts > 0].sum())
            open_to = [m for m in pool if counts[m] or spent + price[m] <= budget + ROUNDING]
            found = choosing.losses_of((added + choosing.values[open_to]) / step)
            chosen = open_to[int(found.argmin())]
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
        toward_equal: pulls the weights toward equal ones by so much times their squared distance, against fitting the
            validation rows.
        smallest: weights below it become zero.
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
            found: Floats = evidence.slope(weights) + 2.0 * self.toward_equal * (weights - equal)
            return found

        weights = minimise_on_simplex(loss, slope, np.full(len(evidence), equal))
        weights = np.where(weights < min(self.smallest, weights.max()), 0.0, weights)
        kept: Floats = weights / weights.sum()
        return kept


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _prices(evidence: Evidence, costs: Array | Sequence[float] | None) -> Floats:
    prices = np.ones(len(evidence)) if costs is None else np.asarray(costs, dtype=np.float64)
    if prices.shape != (len(evidence),) or not (prices >= 0).all():
        raise ValueError(f"costs must be {len(evidence)} numbers of at least 0, one per candidate.")
    return prices


def _ranked(evidence: Evidence, prices: Floats, budget: float) -> Array:
    """The candidates with a finite loss that the budget reaches for, the best first."""
    losses = evidence.losses()
    order = np.argsort(losses, kind="stable")
    sound = order[np.isfinite(losses[order])]
    if not len(sound):
        raise ValueError("no candidate of the ensemble has a finite loss.")
    ranked: Array = sound[prices[sound] <= budget + ROUNDING]
    if not len(ranked):
        raise ValueError(f"the budget is {budget:g}, and the cheapest candidate costs {prices[sound].min():g}.")
    return ranked


def _affordable(evidence: Evidence, costs: Array | None, budget: float) -> Array:
    """The best candidates by their own losses that fit into the budget together."""
    prices = _prices(evidence, costs)
    chosen: list[int] = []
    spent = 0.0
    for member in _ranked(evidence, prices, budget):
        if spent + prices[member] <= budget + ROUNDING:
            chosen.append(int(member))
            spent += prices[member]
    return np.array(chosen)


def _within(weights: Floats, prices: Floats, budget: float) -> Floats:
    """The weights without those that bring the least for their price, until the budget holds."""
    weights = weights.copy()
    while prices[weights > 0].sum() > budget + ROUNDING:
        used = np.flatnonzero(weights)
        weights[used[np.argmin(weights[used] / np.maximum(prices[used], ROUNDING))]] = 0.0
    found: Floats = weights / weights.sum()
    return found


def _equal(evidence: Evidence, members: Array) -> Floats:
    weights = np.zeros(len(evidence))
    weights[members] = 1.0 / len(members)
    return weights


def _one(evidence: Evidence, member: int) -> Floats:
    return _equal(evidence, np.array([member]))
