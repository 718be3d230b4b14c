"""The complete hyperparameter schedule of the best member, which can be exported, read, and trained without the agent.

The weights of the best member seldom come from that member alone: they were copied, perhaps several times. A
``Schedule`` follows the weights, not the member, so a single new member that trains by it repeats the path to them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_rl.errors import BadInput
from raytune_rl.hyperparameters import Choice, Hyperparameter, Integer, SearchSpace
from raytune_rl.records import SCHEMA_VERSION, Mode, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One segment of the path: the member that trained the weights in it, and the values that it used.

    Attributes:
        member, segment: identify the row of ``segments.parquet``.
        hyperparameters: the values that were in force.
        value: the metric after the segment; None if it was not finite.
    """

    member: int
    segment: int
    hyperparameters: Mapping[str, Value]
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Hyperparameters segment by segment, along the lineage of one member's weights.

    Attributes:
        name: of the experiment.
        metric, mode: what was optimised.
        segment_length: optimiser steps (for Trainables: reports) per segment.
        legs: the path in training order, one leg per segment in which the weights were trained. Their ``segment``
            numbers need not be consecutive: members do not wait for each other, and older checkpoints can be copied.
    """

    name: str
    metric: str
    mode: Mode
    segment_length: int
    legs: tuple[Leg, ...]

    def __post_init__(self) -> None:
        if not self.legs:
            raise BadInput("a schedule needs at least one segment.")

    def __len__(self) -> int:
        """The number of segments on the path."""
        return len(self.legs)

    @property
    def value(self) -> float | None:
        """The metric at the end of the path; None if it was not finite."""
        return self.legs[-1].value

    @property
    def copies(self) -> int:
        """How often the weights went from one member to another."""
        return sum(a.member != b.member for a, b in zip(self.legs, self.legs[1:], strict=False))

    @property
    def values(self) -> tuple[Mapping[str, Value], ...]:
        """The hyperparameters of each segment, in training order."""
        return tuple(leg.hyperparameters for leg in self.legs)

    def values_for(self, space: SearchSpace) -> tuple[dict[str, Value], ...]:
        """``values`` in the types of ``space``, as ``controller.policies.Replay`` takes them. (They may differ, since
        tables store a choice among mixed types as text.)

        Raises:
            BadInput: the schedule has other hyperparameters, or a value that one of them cannot take.
        """
        scheduled, expected = set(self.legs[0].hyperparameters), set(space.names)
        if scheduled != expected:
            raise BadInput(
                f"the schedule is of {', '.join(sorted(scheduled))}, and the experiment has "
                f"{', '.join(sorted(expected))}; a replay needs the same hyperparameters."
            )
        return tuple({h.name: _converted(h, values[h.name]) for h in space} for values in self.values)

    def to_json(self) -> str:
        """Standard JSON, see ``from_json``."""
        legs = [
            {
                "member": leg.member,
                "segment": leg.segment,
                "hyperparameters": dict(leg.hyperparameters),
                "value": leg.value,
            }
            for leg in self.legs
        ]
        content = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "metric": self.metric,
            "mode": self.mode,
            "segment_length": self.segment_length,
            "segments": legs,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """The inverse of ``to_json``.

        Raises:
            BadInput: the text is no schedule, or one of a newer version.
        """
        try:
            content = json.loads(text)
            version = content["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"this is no schedule of raytune_rl ({error}); Schedule.to_json writes one.") from None
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise BadInput(
                f"the schedule was written by a newer raytune_rl (schema_version {version}, this one reads up to "
                f"{SCHEMA_VERSION}); please upgrade."
            )
        try:
            return cls(
                name=str(content["name"]),
                metric=str(content["metric"]),
                mode=_mode(content["mode"]),
                segment_length=int(content["segment_length"]),
                legs=tuple(_leg(leg) for leg in content["segments"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"the schedule is damaged ({type(error).__name__}: {error}).") from None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON into a file; returns its path."""
        target = Path(path)
        target.write_text(self.to_json(), encoding="utf-8")
        return target


def _converted(hyperparameter: Hyperparameter, value: Value) -> Value:
    """``value`` in the type of the hyperparameter's values. Raises ``BadInput`` if it is none of them."""
    if isinstance(hyperparameter, Choice):
        for option in hyperparameter.options:
            if option == value and isinstance(option, bool) == isinstance(value, bool):
                return option
        for option in hyperparameter.options:
            if str(option) == value:
                return option
        allowed = ", ".join(repr(option) for option in hyperparameter.options)
        raise BadInput(f"the schedule holds {hyperparameter.name}={value!r}, and the experiment admits {allowed} only.")
    if isinstance(value, bool | str) or not math.isfinite(value):
        raise BadInput(f"the schedule holds {hyperparameter.name}={value!r}, where the experiment has a number.")
    return int(value) if isinstance(hyperparameter, Integer) else float(value)


def _leg(content: Mapping[str, Any]) -> Leg:
    value = content.get("value")
    return Leg(
        member=int(content["member"]),
        segment=int(content["segment"]),
        hyperparameters={str(name): _value(cell) for name, cell in content["hyperparameters"].items()},
        value=None if value is None else float(value),
    )


def _value(cell: Any) -> Value:
    if not isinstance(cell, bool | int | float | str):
        raise ValueError(f"{cell!r} is no value of a hyperparameter")
    return cell


def _mode(text: Any) -> Mode:
    if text == "min":
        return "min"
    if text == "max":
        return "max"
    raise ValueError(f"mode is {text!r}, not min or max")
