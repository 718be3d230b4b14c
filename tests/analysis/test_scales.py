from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from raytune_rl.analysis import Run
from raytune_rl.analysis.scales import scale_of
from tests.analysis.runs import write_run


def test_the_space_says_how_values_lie(run: Run) -> None:
    lr, dropout, batch_size, init = run.scales.values()
    assert (lr.log, lr.lower, lr.upper, lr.role) == (True, 1e-5, 1.0, "learning_rate")
    assert (dropout.log, dropout.lower, dropout.upper, dropout.role) == (False, 0.0, 0.6, "dropout")
    assert (batch_size.log, batch_size.lower, batch_size.upper) == (False, 32, 128)
    assert init.categories == ("kaiming", "orthogonal")


def test_without_it_the_observation_and_the_values_do(tmp_path: Path) -> None:
    run = Run.load(write_run(tmp_path / "run", describe_space=False, segments=3, population=3))
    assert run.scales["lr"].log and not run.scales["dropout"].log
    assert run.scales["lr"].lower is None
    assert set(run.scales["init"].categories) <= {"kaiming", "orthogonal"}


def test_wide_choices_of_numbers_are_logarithmic() -> None:
    scale = scale_of("n", pd.Series([16, 512]), {"options": [16, 64, 512]}, seen_as_log=False)
    assert scale.log and (scale.lower, scale.upper) == (16, 512)


def test_categories_have_places_and_gaps_none() -> None:
    flags = scale_of("nesterov", pd.Series([True, False]), None, seen_as_log=False)
    assert flags.categories == ("False", "True")
    np.testing.assert_array_equal(flags.place(pd.Series([True, None, False], dtype="boolean")), [1.0, math.nan, 0.0])
    mixed = scale_of("m", pd.Series(["auto", "1"]), {"options": ["auto", 1]}, seen_as_log=False)
    np.testing.assert_array_equal(mixed.place(pd.Series(["1", "auto", "gone"])), [1.0, 0.0, math.nan])


def test_numbers_are_their_own_place() -> None:
    scale = scale_of("n", pd.Series([1, None], dtype="Int64"), None, seen_as_log=False)
    np.testing.assert_array_equal(scale.place(pd.Series([1, None], dtype="Int64")), [1.0, math.nan])
