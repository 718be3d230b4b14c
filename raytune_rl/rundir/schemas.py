"""The columns of the two tables, and how a controller's ``Step`` becomes rows of them.

The columns of hyperparameters, observations and actions are fixed when a run starts; those of metrics are added when
members report them. All values are converted to their column's type here, so that writing a row cannot fail because of
its content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from raytune_rl.hyperparameters.kinds import Choice, Float, Hyperparameter, Integer
from raytune_rl.hyperparameters.space import SearchSpace
from raytune_rl.records import SCHEMA_VERSION, Decision, Report, Value
from raytune_rl.rundir.layout import VERSION_KEY

KEYS = (("member", pa.int64()), ("segment", pa.int64()))
METRIC = pa.float64()


def segments_schema(hyperparameters: Mapping[str, pa.DataType]) -> pa.Schema:
    """The columns of ``segments.parquet`` that are known at the start: all but ``metric/...``."""
    columns = [
        *KEYS,
        ("steps", pa.int64()),
        ("trial_id", pa.string()),
        ("node", pa.string()),
        ("seconds", pa.float64()),
        ("copied_from", pa.int64()),
        ("copied_segment", pa.int64()),
        ("status", pa.string()),
        *((f"hp/{name}", kind) for name, kind in hyperparameters.items()),
    ]
    return stamped(pa.schema(columns))


def decisions_schema(features: Sequence[str], actions: Sequence[str]) -> pa.Schema:
    """Columns of ``decisions.parquet``.

    Args:
        features: names of the observation's features, in order.
        actions: names of the action's heads, in order.
    """
    columns = [
        *KEYS,
        ("policy_version", pa.int64()),
        ("reward", pa.float64()),
        ("logp", pa.float64()),
        ("value", pa.float64()),
        ("source", pa.string()),
        *((f"obs/{name}", pa.float32()) for name in features),
        *((f"act/{name}", pa.int64()) for name in actions),
    ]
    return stamped(pa.schema(columns))


def stamped(schema: pa.Schema) -> pa.Schema:
    """``schema`` with metadata: the schema version, and hints for pandas to read integers that may be missing as
    ``Int64``. Otherwise they would become floats if any of them is missing."""
    nullable = [
        {"name": field.name, "field_name": field.name, "pandas_type": "int64", "numpy_type": "Int64", "metadata": None}
        for field in schema
        if field.type == pa.int64() and field.name.startswith(("copied_", "hp/"))
    ]
    hints = {"index_columns": [], "column_indexes": [], "columns": nullable, "pandas_version": pd.__version__}
    return schema.with_metadata({VERSION_KEY: str(SCHEMA_VERSION), b"pandas": json.dumps(hints)})


def column_types(space: SearchSpace) -> dict[str, pa.DataType]:
    """The column type of each hyperparameter's values."""
    return {hyperparameter.name: _column_type(hyperparameter) for hyperparameter in space.hyperparameters}


def _column_type(hyperparameter: Hyperparameter) -> pa.DataType:
    if isinstance(hyperparameter, Float):
        return pa.float64()
    if isinstance(hyperparameter, Integer):
        return pa.int64()
    kinds = {type(option) for option in hyperparameter.options} if isinstance(hyperparameter, Choice) else set()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    # options of other mixed types can only share a column as text
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def segment_row(report: Report, hyperparameters: Mapping[str, pa.DataType]) -> tuple[Any, ...]:
    """The values of the columns of ``segments_schema``, in the same order."""
    return (
        report.member,
        report.segment,
        report.steps,
        report.trial_id,
        report.node,
        report.seconds,
        report.copied_from,
        report.copied_segment,
        report.status,
        *(as_type(report.hyperparameters.get(name), kind) for name, kind in hyperparameters.items()),
    )


def metric_values(report: Report) -> dict[str, float | None]:
    """The report's metrics by column name; None for values that are not numbers."""
    return {f"metric/{name}": as_type(value, METRIC) for name, value in report.metrics.items()}


def decision_row(report: Report, opened: Decision, reward: float, *, features: int, actions: int) -> tuple[Any, ...]:
    """The values of the columns of ``decisions_schema``, in the same order.

    Args:
        report: the segment that the row belongs to.
        opened: the decision that this segment was trained by.
        reward: for that decision.
        features, actions: numbers of columns.
    """
    return (
        report.member,
        report.segment,
        opened.policy_version,
        reward,
        opened.logp,
        opened.value,
        opened.source.name,
        *_or_empty(opened.observation, features),
        *_or_empty(opened.action, actions),
    )


def _or_empty(values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """``values`` if there are ``count`` of them, else empty cells: the decision was made without a policy."""
    return values if len(values) == count else (None,) * count


def as_type(value: Value | None, kind: pa.DataType) -> Any:
    """``value`` in its column's type; None if it cannot be converted (half a layer, a word as a number)."""
    if value is None:
        return None
    try:
        converted = _CONVERT[kind](value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if kind == pa.int64() and converted != value else converted


_CONVERT: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.float64(): float,
    pa.int64(): int,
    pa.bool_(): bool,
    pa.string(): str,
}
