"""Turns the content of an experiment into plain JSON, without its secrets.

``experiment.json`` and ``summary.json`` are read by people, notebooks and other languages, so they are standard JSON
only: no NaN, no pickles, and no object addresses, which would change from run to run.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np

from raytune_rl.records import Value

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

HIDDEN = "(hidden)"
_SECRET_NAME = re.compile(r"passw|secret|credential|api_?key|access_?key|(^|_)token$|^env_vars$|^environ$", re.I)
_USER_IN_URI = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_IN_URI = re.compile(r"([?&][^=&\s]*(?:password|secret|key|token|sig|signature)[^=&\s]*=)[^&\s]+", re.I)


def plain(value: Any) -> Json:
    """``value`` as standard JSON.

    NaN and infinities become null; numpy scalars become numbers; arrays become a text with their shape and dtype;
    dataclasses become mappings of their fields; functions and classes become ``module:qualname``. Any other object
    becomes the name of its type, since its ``repr`` may contain an address or a secret. Values under names such as
    ``password``, ``token`` or ``env_vars`` are hidden (unless they are numbers), and so are credentials inside URIs.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return _SECRET_IN_URI.sub(rf"\1{HIDDEN}", _USER_IN_URI.sub("", value)) if "://" in value else str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return f"array{value.shape} {value.dtype}"
    if isinstance(value, os.PathLike):
        return plain(os.fspath(value))
    if isinstance(value, Mapping):
        return {str(key): _named(str(key), item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _named(field.name, getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Set):
        return [plain(item) for item in sorted(value, key=str)]
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def _named(name: str, value: Any) -> Json:
    if _SECRET_NAME.search(name) and not isinstance(value, bool | int | float | None):
        return HIDDEN
    return plain(value)


def python_value(cell: Any) -> Value:
    """A cell of a table as a Python value, if it is a numpy scalar."""
    value: Value = cell.item() if isinstance(cell, np.generic) else cell
    return value
