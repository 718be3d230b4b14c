"""The update rules of ``torch.optim`` for K members at once, over their flat parameters.

Everything that one member may have different from another comes as a *coefficient*: a tensor of shape (K, 1), or
(K, P) where some members hold some of their parameters frozen. A frozen parameter is left alone as ``torch.optim``
leaves one without gradient: neither its momentum nor its count of steps moves. ``tests`` hold these rules against the
originals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import torch

from raytune_rl.population.packed.layout import Layout

if TYPE_CHECKING:
    from raytune_rl.population.packed.settings import Settings

Rule = Literal["sgd", "adam", "adamw"]
EPSILON = 1e-8


class Update(ABC):
    """Optimiser of all members.

    Args:
        parameters: shape (K, P), changed in place.
    """

    def __init__(self, layout: Layout, parameters: torch.Tensor) -> None:
        self.layout = layout
        self.parameters = parameters
        self.columns = layout.columns(parameters.device)

    @abstractmethod
    def begin(self, settings: Settings, rows: slice, length: int, trains: torch.Tensor | None) -> None:
        """Get ready for ``length`` steps of these members under these settings.

        ``trains``: 1 where a parameter trains, 0 where it is frozen, shape (rows, P); ``None``: nothing is frozen.
        """

    @abstractmethod
    def step(self, gradient: torch.Tensor, index: int) -> None:
        """Step ``index`` of those; ``gradient`` of shape (rows, P), zero where frozen, is used up."""

    @property
    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """What a copy of a member takes along, first dimension K."""

    def _coefficient(self, values: torch.Tensor) -> torch.Tensor:
        """(K,) in double precision -> (K, 1) of the parameters' kind."""
        return values.to(self.parameters)[:, None]


class SGD(Update):
    """``torch.optim.SGD`` with momentum (no dampening, no Nesterov)."""

    def __init__(self, layout: Layout, parameters: torch.Tensor) -> None:
        super().__init__(layout, parameters)
        self.momentum = torch.zeros_like(parameters)
        # torch has no buffer before the first step with momentum
        self.started = torch.zeros(len(parameters), len(layout.leaves), dtype=torch.bool)

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return {"momentum": self.momentum, "started": self.started}

    def begin(self, settings: Settings, rows: slice, length: int, trains: torch.Tensor | None) -> None:
        mu, decay = settings.momentum[rows], settings.weight_decay[rows]
        self._p, self._m = self.parameters[rows], self.momentum[rows]
        self._rate = self._coefficient(-settings.learning_rate[rows])
        self._decay = self._coefficient(decay) if bool((decay != 0).any()) else None
        self._mu = self._coefficient(mu)
        still = mu == 0  # torch leaves an old buffer as it is then, and steps along the gradient
        self._still = None if not bool(still.any()) else still.to(self.parameters.device)[:, None]
        self._plain = bool(still.all())
        if trains is not None:
            self._rate = self._rate * trains
            self._decay = None if self._decay is None else self._decay * trains
            self._mu = torch.where(trains > 0, self._mu, 1.0)
        moved = ~still[:, None] & torch.ones_like(self.started[rows])
        if settings.frozen_leaves is not None:
            moved &= ~settings.frozen_leaves[rows]
        self.started[rows] |= moved

    def step(self, gradient: torch.Tensor, index: int) -> None:
        if self._decay is not None:
            torch.addcmul(gradient, self._p, self._decay, out=gradient)
        if self._plain:
            self._p.addcmul_(gradient, self._rate)
        elif self._still is None:
            torch.addcmul(gradient, self._m, self._mu, out=self._m)
            self._p.addcmul_(self._m, self._rate)
        else:
            moved = torch.addcmul(gradient, self._m, self._mu)
            self._p.addcmul_(torch.where(self._still, gradient, moved), self._rate)
            self._m.copy_(torch.where(self._still, self._m, moved))


class Adam(Update):
    """``torch.optim.Adam``, or with ``decoupled`` ``torch.optim.AdamW``; the second beta is a setting, too."""

    def __init__(self, layout: Layout, parameters: torch.Tensor, *, decoupled: bool) -> None:
        super().__init__(layout, parameters)
        self.decoupled = decoupled
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters)
        self.count = torch.zeros(len(parameters), len(layout.leaves), dtype=torch.float64)
        self._scratch: torch.Tensor | None = None

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return {"first": self.first, "second": self.second, "count": self.count}

    def begin(self, settings: Settings, rows: slice, length: int, trains: torch.Tensor | None) -> None:
        rate, decay = settings.learning_rate[rows], settings.weight_decay[rows]
        beta1, beta2 = settings.momentum[rows], settings.beta2[rows]
        self._p, self._m, self._v = self.parameters[rows], self.first[rows], self.second[rows]
        if self._scratch is None or self._scratch.shape != self._p.shape:
            self._scratch = torch.empty_like(self._p)
        self._mask = trains
        self._w1 = self._coefficient(1 - beta1)
        same = bool((beta2 == beta2[0]).all())
        self._b2 = float(beta2[0]) if same else self._coefficient(beta2)
        self._w2 = 1 - float(beta2[0]) if same else self._coefficient(1 - beta2)
        self._decay = None
        if bool((decay != 0).any()):
            self._decay = self._coefficient(1 - rate * decay if self.decoupled else decay)
        count = self.count[rows]
        # (K, L) while parameters have different counts, else (K, 1)
        spread = trains is not None or bool((count != count[:, :1]).any())
        count = count if spread else count[:, :1]
        steps = count + torch.arange(1, length + 1, dtype=torch.float64)[:, None, None]
        root = torch.sqrt(1 - beta2[:, None] ** steps)
        # rate / c1 * m / (sqrt(v) / sqrt(c2) + eps), with both sides of the fraction times sqrt(c2)
        self._rates = (-rate[:, None] * root / (1 - beta1[:, None] ** steps)).to(self._p)
        self._epsilons = (EPSILON * root).to(self._p)
        self._spread = spread
        if trains is not None:
            self._w1 = self._w1 * trains
            self._w2 = self._w2 * trains
            if self._decay is not None:
                self._decay = torch.where(trains > 0, self._decay, 1.0 if self.decoupled else 0.0)
        if settings.frozen_leaves is None:
            self.count[rows] += length
        else:
            self.count[rows] += length * (~settings.frozen_leaves[rows])

    def step(self, gradient: torch.Tensor, index: int) -> None:
        rate, epsilon = self._rates[index], self._epsilons[index]
        if self._spread:
            rate, epsilon = rate[:, self.columns], epsilon[:, self.columns]
        if self._mask is not None:
            rate = rate * self._mask
        if self._decay is not None:
            if self.decoupled:
                self._p.mul_(self._decay)
            else:
                torch.addcmul(gradient, self._p, self._decay, out=gradient)
        self._m.lerp_(gradient, self._w1)
        if self._mask is None and isinstance(self._b2, float):
            assert isinstance(self._w2, float)
            self._v.mul_(self._b2).addcmul_(gradient, gradient, value=self._w2)
        else:
            self._v.lerp_(gradient.mul_(gradient), torch.as_tensor(self._w2).to(self._v))
        scratch = self._scratch
        assert scratch is not None
        torch.sqrt(self._v, out=scratch)
        scratch.add_(epsilon)
        torch.div(self._m, scratch, out=scratch)
        self._p.addcmul_(scratch, rate)


def make_update(rule: Rule, layout: Layout, parameters: torch.Tensor) -> Update:
    if rule == "sgd":
        return SGD(layout, parameters)
    return Adam(layout, parameters, decoupled=rule == "adamw")
