"""An ensemble (or a single model) for other runtimes: ``torch.export`` programs and ONNX files."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from torch import nn

from raytune_rl.ensemble.loading import ENSEMBLE, load
from raytune_rl.ensemble.saving import KIND, example_of
from raytune_rl.errors import BadInput, first_line
from raytune_rl.population.export import CONFIG, read_config

ONNX_PACKAGES = ("onnx", "onnxscript")


def export_ensemble(directory: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write the ensemble of a run as ``target``: ``*.pt2`` for ``torch.export.load``, ``*.onnx`` for ONNX runtimes.

    Args:
        directory: a run directory, or its ``ensemble/``.
        target: the file; the number of rows stays free in it.

    Raises:
        BadInput: no ensemble there, another suffix, an operation that cannot be exported, or ONNX is not installed.
    """
    path = Path(directory)
    path = path / ENSEMBLE if (path / ENSEMBLE / CONFIG).exists() else path
    try:
        example = example_of(read_config(path, KIND))
        model = load(path)
    except ValueError as error:
        raise BadInput(str(error)) from None
    return export_module(model, example, target)


def export_module(model: nn.Module, example: torch.Tensor, target: str | os.PathLike[str]) -> Path:
    """Write ``model`` as ``target``; see ``export_ensemble``.

    Args:
        example: inputs of one row, (1, ...).
    """
    path = Path(target)
    if path.suffix not in (".pt2", ".onnx"):
        raise BadInput(f"the export {path.name} must end in .pt2 (torch.export) or .onnx.")
    if path.suffix == ".onnx":
        check_onnx()
    rows = torch.cat([example, example])  # of one row torch.export would make a constant
    free = ({0: torch.export.Dim("rows")},)
    try:
        program = torch.export.export(model.eval(), (rows,), dynamic_shapes=free)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".pt2":
            torch.export.save(program, path)
        else:
            torch.onnx.export(program, dynamo=True, verbose=False).save(path)  # type: ignore[union-attr]
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise BadInput(f"this model cannot be exported to {path.suffix}: {first_line(error)}") from error
    return path


def check_onnx() -> None:
    """Raise ``BadInput`` where what ONNX needs is not installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"ONNX needs {' and '.join(missing)}, which is not installed: pip install 'raytune_rl[onnx]'.")
