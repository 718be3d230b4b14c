"""The files of a controller: weights as safetensors, everything else about it as JSON. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from raytune_rl.records import SCHEMA_VERSION

WEIGHTS, RECORD = "controller.safetensors", "controller.json"


def write(directory: Path, weights: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write both files into ``directory``, each of them whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    aside = directory / f".{WEIGHTS}"
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, aside)
    aside.replace(directory / WEIGHTS)
    aside = directory / f".{RECORD}"
    aside.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **record}, indent=1), encoding="utf-8")
    aside.replace(directory / RECORD)
