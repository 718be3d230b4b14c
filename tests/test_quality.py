"""The benchmark's own arithmetic, and that all of its methods spend the same budget."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from quality.methods import BUDGET, methods
from quality.statistics import budget_to_match, improvement, incumbents, table

from raytune_rl.worlds.real import evaluation_task


def test_the_incumbent_is_chosen_by_validation_and_judged_by_test() -> None:
    validation = np.array([[3.0, 1.0, 2.0, np.nan, 0.5]])
    test = np.array([[30.0, 10.0, 5.0, 0.0, 50.0]])
    np.testing.assert_array_equal(incumbents(validation, test), [[30.0, 10.0, 10.0, 10.0, 50.0]])


def test_improvement_counts_ties_half_and_knows_its_uncertainty() -> None:
    rows = [
        {"case": case, "method": method, "seed": seed, "loss": loss + 0.001 * seed, "accuracy": 0.5}
        for case in ("a", "b")
        for method, loss in (("good", 1.0), ("bad", 2.0), ("same", 1.0))
        for seed in range(10)
    ]
    finals = pd.DataFrame(rows)
    assert improvement(finals, "good", "bad") == (1.0, 1.0, 1.0)
    middle, low, high = improvement(finals, "good", "same")
    assert middle == pytest.approx(0.5) and low < 0.5 < high
    assert list(table(finals)["rank_loss"]) == [1.5, 1.5, 3.0]


def test_budget_to_match() -> None:
    ours, peer = np.array([[4.0, 3.0, 2.0, 1.0]]), np.array([[5.0, 5.0, 4.0, 3.0]])
    assert budget_to_match({"case": {"ours": ours, "peer": peer}}, "ours", "peer") == 0.5
    assert budget_to_match({"case": {"ours": peer, "peer": ours}}, "ours", "peer") == 1.0


@pytest.mark.parametrize(
    "name", ["grid + cosine", "TPE", "ASHA + cosine", "PBT, every 2nd", "ours, zero-shot", "ours, learning on"]
)
def test_every_method_spends_the_budget(name: str) -> None:
    result = methods()[name](evaluation_task("wine", "adam"), 2, 0)
    for values in (result.validation, result.test, result.accuracy):
        assert values.shape == (2, BUDGET) and np.isfinite(values).mean() > 0.9
    assert np.median(incumbents(result.validation, result.accuracy)[:, -1]) > 0.5
