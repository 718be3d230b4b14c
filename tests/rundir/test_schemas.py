from __future__ import annotations

import pyarrow as pa
import pytest

from raytune_rl.hyperparameters.kinds import Choice, Float, Integer
from raytune_rl.hyperparameters.space import SearchSpace
from raytune_rl.rundir.schemas import as_type, column_types


def test_a_column_type_for_every_kind() -> None:
    space = SearchSpace(
        hyperparameters=(
            Float(name="lr", lower=1e-5, upper=1.0, log=True),
            Integer(name="layers", lower=1, upper=4),
            Choice(name="activation", options=("relu", "tanh")),
            Choice(name="nesterov", options=(True, False)),
            Choice(name="batch", options=(16, 32)),
            Choice(name="scale", options=(1, 0.5)),
            Choice(name="mixed", options=(1, "all", False)),
        )
    )
    assert column_types(space) == {
        "lr": pa.float64(),
        "layers": pa.int64(),
        "activation": pa.string(),
        "nesterov": pa.bool_(),
        "batch": pa.int64(),
        "scale": pa.float64(),
        "mixed": pa.string(),
    }


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, pa.float64(), 3.0),
        (32.0, pa.int64(), 32),
        (32.5, pa.int64(), None),
        (float("nan"), pa.int64(), None),
        (10**400, pa.float64(), None),
        (False, pa.string(), "False"),
        ("many", pa.float64(), None),
        ([1], pa.float64(), None),
        (None, pa.string(), None),
    ],
)
def test_values_take_their_columns_type_or_stay_out(value: object, kind: pa.DataType, expected: object) -> None:
    assert as_type(value, kind) == expected  # type: ignore[arg-type]
