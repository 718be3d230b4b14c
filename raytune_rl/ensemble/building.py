"""Makes the ensemble of a finished run: predictions of what was kept, selection on validation, calibration."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from raytune_rl.combining.calibration import brier_score, calibration_of, expected_calibration_error
from raytune_rl.combining.losses import Array, Evidence, Kind
from raytune_rl.ensemble.batched import alike
from raytune_rl.ensemble.candidates import family_soups, kinship, mixable, ordered
from raytune_rl.ensemble.kept import Kept, Place
from raytune_rl.ensemble.links import Link, answers, predictions, read_as, task_of
from raytune_rl.ensemble.model import EnsembleModel
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.population.evaluation import classes_first, evaluate, outputs_of
from raytune_rl.population.export import restore
from raytune_rl.population.splits import CPU, Split, load_splits
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Mode

logger = logging.getLogger(__name__)

EXAMPLE_ROWS = 16
LATENCY_REPEATS = 5


class NoEnsemble(ValueError):
    """There is none to be made of this run: one sentence why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A member of an ensemble.

    Attributes:
        kept: its state.
        weight: in (0, 1].
        loss: of it alone, on validation (``combining.losses``).
        ingredients: of a soup.
    """

    kept: Kept
    weight: float
    loss: float
    ingredients: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An ensemble.

    Attributes:
        model: in eval mode, on the CPU.
        members: the heaviest first, as in the model.
        loss: of the ensemble on validation, before calibration, by the loss that chose it.
        metrics: the task's own on validation; for probabilities also ``validation_ece`` and ``validation_brier``, of
            each class, token or match; and how much averaging gains, ``validation_ambiguity``.
        example: the first rows of the validation inputs.
        candidates: how many there were to choose from.
        reading: how its outputs become probabilities, see ``links.read_as``.
    """

    model: EnsembleModel
    members: tuple[Chosen, ...]
    loss: float
    metrics: Mapping[str, float]
    example: torch.Tensor
    candidates: int
    reading: Link | None


def build(
    settings: Ensemble,
    task: TorchTask,
    kept: Sequence[Kept],
    segments: pd.DataFrame,
    *,
    metric: str,
    mode: Mode,
    seed: int,
) -> Built:
    """The ensemble of a run. Sees train and validation data only.

    Args:
        settings: how.
        task: whose members they are.
        kept: their states.
        segments: the run's table, for who has weights from whom.
        metric, mode: of the experiment; decides which candidates come first where time is short.
        seed: of bags and held-back rows.

    Raises:
        NoEnsemble: nothing was kept, the task's outputs cannot be averaged, or it would take too long.
    """
    bench = _Bench(settings, task)
    candidates, evidence = bench.judged(ordered(kept, metric, mode))
    losses = evidence.losses()
    if not np.isfinite(losses).any():
        raise NoEnsemble("no kept state predicts finite numbers")
    ingredients: dict[int, tuple[Place, ...]] = {}
    if settings.soups:
        related = kinship(segments, [one.place for one in candidates])

        def same(one: Kept, other: Kept) -> bool:
            return related(one.place, other.place) and mixable(one.state, other.state, task)

        for soup, parts in family_soups(candidates, losses.tolist(), related=same, judge=bench.loss):
            ingredients[len(candidates)] = parts
            candidates = [*candidates, soup]
            evidence = Evidence.stack([evidence, bench.evidence(soup)])
        losses = evidence.losses()
    weights = _weights(settings, bench, candidates, evidence, np.random.default_rng([seed, 0xE5]))
    order = [int(index) for index in np.argsort(-weights, kind="stable") if weights[index] > 0]
    chosen = tuple(
        Chosen(kept=candidates[i], weight=float(weights[i]), loss=float(losses[i]), ingredients=ingredients.get(i, ()))
        for i in order
    )
    apart = float(weights[order] @ losses[order])
    return _assembled(bench, chosen, evidence.loss(weights), apart=apart, count=len(evidence))


def _weights(
    settings: Ensemble, bench: _Bench, candidates: Sequence[Kept], evidence: Evidence, rng: np.random.Generator
) -> Array:
    """The aggregator's choice. Both limits are one budget: a member costs the larger of the two shares that it uses."""
    costs = np.full(len(candidates), 1.0 / settings.size)
    if settings.latency is not None:
        seconds = np.array([bench.latency(one) for one in candidates])
        fastest = float(seconds[np.isfinite(evidence.losses())].min())
        if fastest > settings.latency:
            raise NoEnsemble(
                f"ensemble.latency is {settings.latency:g} seconds for one row, and the fastest candidate takes "
                f"{fastest:.2g}"
            )
        costs = np.maximum(costs, seconds / settings.latency)
    try:
        return settings.aggregator.weights(evidence, rng, costs=costs, budget=1.0)
    except ValueError as error:
        raise NoEnsemble(str(error)) from None


def _assembled(bench: _Bench, chosen: Sequence[Chosen], loss: float, *, apart: float, count: int) -> Built:
    """The module and what it is worth. ``apart`` is the members' own mean loss, ``loss`` that of their combination."""
    networks = [bench.network(one.kept) for one in chosen]
    example = bench.validation.inputs[:EXAMPLE_ROWS]
    model = EnsembleModel(
        networks,
        [one.weight for one in chosen],
        link=bench.link,
        alike=alike(networks, example),
    )
    outputs = outputs_of(model, bench.validation, device=CPU)
    reading = read_as(bench.task.loss, bench.kind, bench.link)
    if bench.settings.calibrate and reading is not None:
        model.calibration = calibration_of(predictions(outputs, reading), bench.targets)
    metrics = evaluate(
        model, bench.validation, loss=bench.task.loss, metrics=bench.task.metrics, prefix="validation", device=CPU
    )
    if reading is not None:
        metrics |= calibration(model, bench.validation, reading, "validation")
    model.tune(example[:1])
    return Built(
        model=model,
        members=tuple(chosen),
        loss=loss,
        metrics={**metrics, "validation_ambiguity": apart - loss},
        example=example,
        candidates=count,
        reading=reading,
    )


def calibration(model: nn.Module, split: Split, link: Link, prefix: str) -> dict[str, float]:
    """``<prefix>_ece`` and ``<prefix>_brier`` of a model whose outputs are read as probabilities by ``link``."""
    found = predictions(outputs_of(model, split, device=CPU), link)
    targets = answers(split.targets, "classification", link)
    kept = targets >= 0
    return {
        f"{prefix}_ece": expected_calibration_error(found[kept], targets[kept]),
        f"{prefix}_brier": brier_score(found[kept], targets[kept]),
    }


def on_test_split(built: Built, task: TorchTask) -> dict[str, float]:
    """What the ensemble is worth on the test split; empty where there is none. To be called once, at the end."""
    split = load_splits(task.data, CPU).test
    if split is None:
        return {}
    metrics = evaluate(built.model, split, loss=task.loss, metrics=task.metrics, prefix="test", device=CPU)
    more = {} if built.reading is None else calibration(built.model, split, built.reading, "test")
    return metrics | more


class _Bench:
    """Networks of states, and what they predict on the validation split."""

    def __init__(self, settings: Ensemble, task: TorchTask) -> None:
        self.settings = settings
        self.task = task
        self.validation = load_splits(task.data, CPU).validation
        self.kind: Kind = "classification"
        self.link: Link = "softmax"
        self.targets: Array = np.empty(0)

    def judged(self, candidates: Sequence[Kept]) -> tuple[list[Kept], Evidence]:
        """The candidates that there is time for, and their evidence."""
        if not candidates:
            raise NoEnsemble("the run has kept no states")
        self._learn_kind(candidates[0])
        parts: list[Evidence] = []
        began = time.perf_counter()
        for one in candidates:
            parts.append(self.evidence(one))
            spent = time.perf_counter() - began
            if spent * (len(parts) + 1) / len(parts) > self.settings.seconds:
                break
        if len(parts) < len(candidates):
            logger.info(
                "the ensemble chooses from %d of %d states: predicting with more would take longer than "
                "ensemble.seconds = %g",
                len(parts),
                len(candidates),
                self.settings.seconds,
            )
        return list(candidates[: len(parts)]), Evidence.stack(parts)

    def network(self, one: Kept) -> nn.Module:
        return restore(self.task.network, one.state)

    def evidence(self, one: Kept) -> Evidence:
        outputs = outputs_of(self.network(one), self.validation, device=CPU)
        return Evidence.of(predictions(outputs, self.link)[None], self.targets, self.kind)

    def loss(self, one: Kept) -> float:
        return float(self.evidence(one).losses()[0])

    def latency(self, one: Kept) -> float:
        """Seconds that it takes for one row."""
        network, row = self.network(one), self.validation.inputs[:1]
        times = []
        with torch.no_grad():
            for _ in range(LATENCY_REPEATS):
                began = time.perf_counter()
                network(row)
                times.append(time.perf_counter() - began)
        return min(times)

    def _learn_kind(self, one: Kept) -> None:
        rows = self.validation.rows(slice(0, EXAMPLE_ROWS), CPU)
        with torch.no_grad():
            outputs = self.network(one)(rows[0])
        found = task_of(self.task.loss, outputs, rows[1], self.settings.kind)
        last = not rows[1].is_floating_point() and outputs.shape[:-1] == rows[1].shape
        if found is None and last and not classes_first(outputs, rows[1]):
            raise NoEnsemble(
                f"the outputs {tuple(outputs.shape)} have their classes or vocabulary last; they must be dimension 1, "
                "as for nn.CrossEntropyLoss: transpose them in the network"
            )
        if found is None:
            raise NoEnsemble(
                "loss and data do not tell how outputs are to be averaged; say Ensemble(kind=...), or None for no "
                "ensemble"
            )
        self.kind, self.link = found
        self.targets = answers(self.validation.targets, self.kind, self.link)
