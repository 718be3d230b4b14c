"""Makes the ensemble of a finished run: predictions of what was kept, selection on validation, calibration."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from raytune_rl.combining.losses import Floats
from raytune_rl.ensemble.batched import alike
from raytune_rl.ensemble.candidates import ordered
from raytune_rl.ensemble.kept import Kept, Place
from raytune_rl.ensemble.model import EnsembleModel
from raytune_rl.ensemble.pool import NoEnsemble, Pool, seconds_per_row
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.ensemble.validation import Reading
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Mode


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
        reading: of its outputs.
    """

    model: EnsembleModel
    members: tuple[Chosen, ...]
    loss: float
    metrics: Mapping[str, float]
    example: torch.Tensor
    candidates: int
    reading: Reading


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
    deadline = time.monotonic() + settings.seconds
    pool = Pool.of(settings, task, ordered(kept, metric, mode))
    if not np.isfinite(pool.losses).any():
        raise NoEnsemble("no kept state predicts finite numbers")
    if settings.soups:
        pool = pool.with_soups(segments, deadline)
    rng = np.random.default_rng([seed, 0xE5])
    if settings.latency is None:
        return _built(pool, pool.weights(rng, size=settings.size), metric=metric, mode=mode)
    return _built_within(pool, rng, settings.latency, metric=metric, mode=mode)


def _built_within(pool: Pool, rng: np.random.Generator, latency: float, *, metric: str, mode: Mode) -> Built:
    """The largest ensemble that takes at most ``latency`` seconds for one row. Members' own times say only roughly what
    they take together: stacked they take less, and joining and calibrating their outputs takes time, too. So the
    ensemble itself is timed, and has fewer members until it holds."""
    fastest = float(pool.seconds[np.isfinite(pool.losses)].min())
    limit = f"ensemble.latency is {latency:g} seconds for one row"
    if fastest > latency:
        raise NoEnsemble(f"{limit}, and the fastest candidate takes {fastest:.2g}")
    size, seconds = pool.settings.size, latency
    while True:
        built = _built(pool, pool.weights(rng, size=size, seconds=seconds), metric=metric, mode=mode)
        taken = seconds_per_row(built.model, built.example[:1])
        if taken <= latency:
            return built
        if len(built.members) > 1:
            size = len(built.members) - max(1, len(built.members) // 4)
        elif seconds > fastest:  # the best one alone is too slow
            size, seconds = 1, fastest
        else:
            raise NoEnsemble(f"{limit}, and an ensemble of only the fastest candidate takes {taken:.2g}")


def _built(pool: Pool, weights: Floats, *, metric: str, mode: Mode) -> Built:
    """The module with these weights of the candidates, shape (candidates,), and what it is worth."""
    validation, losses = pool.validation, pool.losses
    order = [int(index) for index in np.argsort(-weights, kind="stable") if weights[index] > 0]
    chosen = tuple(
        Chosen(
            kept=pool.states[i],
            weight=float(weights[i]),
            loss=float(losses[i]),
            ingredients=pool.ingredients.get(i, ()),
        )
        for i in order
    )
    networks = [validation.network(member.kept.state) for member in chosen]
    model = EnsembleModel(
        networks,
        [member.weight for member in chosen],
        link=pool.reading.link,
        alike=alike(networks, validation.example),
    )
    found = validation.calibrated(validation.outputs(model), metric=metric, mode=mode, wanted=pool.settings.calibrate)
    model.calibration = found.calibration
    model.tune(validation.example[:1])
    loss = pool.evidence.loss(weights)
    return Built(
        model=model,
        members=chosen,
        loss=loss,
        metrics={**found.metrics, "validation_ambiguity": float(weights[order] @ losses[order]) - loss},
        example=validation.example,
        candidates=len(pool.states),
        reading=pool.reading,
    )
