"""What a user may say about the ensemble of a run. Imports no torch: it is a field of ``Experiment``."""

from __future__ import annotations

from dataclasses import dataclass, field

from raytune_rl.combining.aggregators import Aggregator, Greedy
from raytune_rl.combining.losses import KINDS, Kind
from raytune_rl.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """How the ensemble of a finished run is made, from states that the run has kept anyway.

    Candidates are each member's best checkpoint and final weights, snapshots from between, and averages of weights with
    a common origin where these are better than what they average. They are chosen by their loss on the validation
    split: the log loss of averaged probabilities, the squared error of averaged values, the cross entropy of averaged
    scores (``combining.losses``).

    Attributes:
        aggregator: chooses members and weights; ``combining.aggregators`` has ``Greedy``, ``Convex``, ``TopK`` and
            ``Uniform``.
        size: networks in it at most. Several may be states of one member (best, final, snapshots, a soup) under
            ``Greedy`` and ``Convex``; ``TopK`` and ``Uniform`` take one of each.
        latency: seconds that the ensemble may take for one row, as measured on the CPU when it is built; it has fewer
            members until it holds. None = any.
        snapshots: states to keep of each member on its way, evenly spaced; every state file grows by as many.
        soups: whether averages of weights are candidates, too.
        calibrate: whether probabilities are calibrated: of classes, of tokens, of candidates under the cross entropy;
            and only where neither loss nor metric becomes worse.
        kind: of the task, where loss and data do not tell it: ``"matching"`` for outputs that are scores of
            candidates, ``"regression"`` for outputs to be averaged as they are; under a loss of your own also
            ``"classification"`` and ``"generation"``, for scores that a softmax makes probabilities of. Classes and
            vocabularies must be dimension 1 of the outputs, as for ``nn.CrossEntropyLoss``.
        seconds: of computing that predictions on the validation split may take, averages of weights included;
            candidates beyond are left out.
        max_gib: run directories with more than so much state are left without an ensemble.
    """

    aggregator: Aggregator = field(default_factory=Greedy)
    size: int = 8
    latency: float | None = None
    snapshots: int = 0
    soups: bool = True
    calibrate: bool = True
    kind: Kind | None = None
    seconds: float = 30.0
    max_gib: float = 2.0

    def __post_init__(self) -> None:
        if isinstance(self.aggregator, type) or not isinstance(self.aggregator, Aggregator):
            raise BadInput(f"ensemble.aggregator is {self.aggregator!r}; it must be one such as Greedy() or Convex().")
        for name, least in (("size", 1), ("snapshots", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise BadInput(f"ensemble.{name} is {value!r}; it must be a whole number of at least {least}.")
        for name in ("latency", "seconds", "max_gib"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            if not number and not (value is None and name == "latency"):
                raise BadInput(f"ensemble.{name} is {value!r}; it must be a positive number.")
        for name in ("soups", "calibrate"):
            if not isinstance(getattr(self, name), bool):
                raise BadInput(f"ensemble.{name} is {getattr(self, name)!r}; it must be True or False.")
        if self.kind not in (None, *KINDS):
            raise BadInput(f"ensemble.kind is {self.kind!r}; it must be one of {', '.join(KINDS)}, or None.")
