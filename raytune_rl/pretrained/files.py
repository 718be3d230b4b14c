"""The files of a controller: its weights as safetensors and its record as JSON. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from raytune_rl.controller.prior import PRIOR
from raytune_rl.errors import BadInput
from raytune_rl.records import SCHEMA_VERSION

WEIGHTS, RECORD = "controller.safetensors", "controller.json"


def write(directory: Path, weights: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write both files into ``directory``, each atomically."""
    from raytune_rl.rundir.store import LocalStore  # imports pandas, which reading a controller does not need

    store = LocalStore(directory)
    store.make_directory("")
    store.write(WEIGHTS, save({name: np.ascontiguousarray(value) for name, value in weights.items()}))
    store.write(RECORD, json.dumps({"schema_version": SCHEMA_VERSION, "prior": PRIOR, **record}, indent=1).encode())


def read(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The weights by name, and the record.

    Raises:
        BadInput: the directory holds no controller, or one of another version of this package.
    """
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        weights = load_file(directory / WEIGHTS)
    except (OSError, ValueError) as error:
        raise BadInput(f"Pretrained: {directory} holds no controller ({error}).") from None
    if record["schema_version"] > SCHEMA_VERSION:
        raise BadInput(f"Pretrained: the controller in {directory} was made by a newer version; upgrade raytune_rl.")
    if record.get("prior") != PRIOR:
        raise BadInput(f"Pretrained: the controller in {directory} is of another version of raytune_rl; train it anew.")
    return weights, record
