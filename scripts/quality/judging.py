"""What the ensemble of one population is worth, how well it is calibrated, and what it withstands.

All is computed from what the members say of validation and test. Probabilities are smoothed for everybody, single
models too (``combining.losses.SMOOTHING``), before any figure is taken of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch

from raytune_rl.combining.aggregators import Aggregator, Greedy, TopK, Uniform
from raytune_rl.combining.calibration import brier_score, expected_calibration_error
from raytune_rl.combining.diversity import disagreement
from raytune_rl.combining.losses import SMOOTHING, Evidence, Kind, combine

AGGREGATORS: Final[Mapping[str, Aggregator]] = {"greedy": Greedy(), "uniform": Uniform(), "top 4": TopK(k=4)}
CHOSEN: Final = "greedy"
"""The one by which methods are compared, fixed before any result was seen; the others are reported beside it."""
SINGLE: Final = "single"
"""The best member by validation, of all members and times; not necessarily one of the final population."""

CLEAN: Final = "clean"
NOISE: Final = (0.25, 0.5, 1.0)
"""Deviations of the Gaussian noise, in units of the inputs', which are standardised."""
SHIFT_SCALE, SHIFT_OFFSET = 1.5, 1.0
"""What becomes of the middle quarter of the features under the shift, as from a sensor that is no longer adjusted:
times 1.5, plus one deviation. In pictures these are the middle rows, in time series channels."""


def disturbed(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Test inputs (N, ...) as they are, under each noise, and shifted; the same for all methods and seeds."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(inputs.shape, generator=generator)
    shifted = inputs.clone().flatten(1)
    quarter = slice(shifted.shape[1] * 3 // 8, max(shifted.shape[1] * 5 // 8, shifted.shape[1] * 3 // 8 + 1))
    shifted[:, quarter] = shifted[:, quarter] * SHIFT_SCALE + SHIFT_OFFSET
    noisy = {noise(deviation): inputs + deviation * drawn for deviation in NOISE}
    return {CLEAN: inputs, **noisy, "shift": shifted.reshape(inputs.shape)}


def noise(deviation: float) -> str:
    """What the inputs under such noise are called."""
    return f"noise {deviation:g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """What the members of one run say at its end.

    Attributes:
        validation: shares of the classes, or values: (members, rows, outputs).
        test: the same of the test split, by what was done to its inputs (``disturbed``).
        single: of the best member of all times on test: (rows, outputs), by the same.
    """

    validation: np.ndarray
    test: Mapping[str, np.ndarray]
    single: Mapping[str, np.ndarray]


def judge(found: Population, validation_targets: np.ndarray, test_targets: np.ndarray, kind: Kind) -> pd.DataFrame:
    """A row per predictor (``SINGLE``, and the aggregators) and inputs (``disturbed``).

    Returns:
        ``predictor, inputs``; ``loss`` (log-loss or mean squared error), ``accuracy``, ``ece``, ``brier`` (NaN for a
        regression); ``used``: distinct members that have a weight; ``disagreement`` of the whole population on clean
        test inputs.
    """
    evidence = Evidence.of(found.validation, validation_targets, kind)
    weights = {SINGLE: np.ones(1)}
    for name, aggregator in AGGREGATORS.items():
        weights[name] = _weights(aggregator, evidence)
    differing = disagreement(found.test[CLEAN], kind)
    rows = []
    for inputs, members in found.test.items():
        for name, shares in weights.items():
            said = found.single[inputs] if name == SINGLE else combine(members, shares)
            figures = measure(said, test_targets, kind)
            used = int((shares > 0).sum())
            rows.append({"predictor": name, "inputs": inputs, **figures, "used": used, "disagreement": differing})
    return pd.DataFrame(rows)


def _weights(aggregator: Aggregator, evidence: Evidence) -> np.ndarray:
    """All alike where every member has diverged, which aggregators refuse."""
    if not np.isfinite(evidence.losses()).any():
        return np.full(len(evidence), 1.0 / len(evidence))
    return aggregator.weights(evidence, np.random.default_rng(0))


def measure(said: np.ndarray, targets: np.ndarray, kind: Kind) -> dict[str, float]:
    """``loss, accuracy, ece, brier`` of one prediction (rows, outputs). One that is not finite counts as equal shares,
    or zeros: who has diverged knows nothing."""
    if not np.isfinite(said).all():
        said = np.full(said.shape, 0.0 if kind == "regression" else 1.0 / said.shape[1])
    loss = float(Evidence.of(said[None], targets, kind).losses()[0])
    if kind == "regression":
        return {"loss": loss, "accuracy": np.nan, "ece": np.nan, "brier": np.nan}
    smooth = (1.0 - SMOOTHING) * said + SMOOTHING / said.shape[1]
    return {
        "loss": loss,
        "accuracy": float((smooth.argmax(axis=1) == targets).mean()),
        "ece": expected_calibration_error(smooth, targets),
        "brier": brier_score(smooth, targets),
    }
