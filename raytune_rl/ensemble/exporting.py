"""An ensemble (or a single model) for other runtimes: ``torch.export`` programs and ONNX files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from raytune_rl.ensemble.loading import ENSEMBLE, load
from raytune_rl.ensemble.saving import KIND, example_of
from raytune_rl.errors import BadInput, first_line
from raytune_rl.population.export import CONFIG, read_config

ONNX_PACKAGES = ("onnx", "onnxscript")


def export_ensemble(
    directory: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    network: Callable[..., nn.Module] | None = None,
) -> Path:
    """Write the ensemble of a run as ``target``: ``*.pt2`` for ``torch.export.load``, ``*.onnx`` for ONNX runtimes.

    Args:
        directory: a run directory, or its ``ensemble/``.
        target: the file; the number of rows stays free in it.
        network: the members' factory, where the one that the files name cannot be imported here.

    Raises:
        BadInput: no ensemble there, another suffix, an operation that cannot be exported, a file that cannot be
            written, or ONNX is not installed.
    """
    _checked_target(target)
    path = Path(directory)
    path = path / ENSEMBLE if (path / ENSEMBLE / CONFIG).exists() else path
    try:
        example = example_of(read_config(path, KIND))
        model = load(path, network)
    except ValueError as error:  # advice on loading it is advice on exporting it
        raise BadInput(str(error).replace("raytune_rl.load(", "export_ensemble(")) from None
    return export_module(model, example, target)


def export_module(model: nn.Module, example: torch.Tensor, target: str | os.PathLike[str]) -> Path:
    """Write ``model`` as ``target``; see ``export_ensemble``.

    Args:
        example: inputs of one row, (1, ...).
    """
    path = _checked_target(target)
    rows = torch.cat([example, example])  # of one row torch.export would make a constant
    free = ({0: torch.export.Dim("rows")},)
    try:
        program = torch.export.export(model.eval(), (rows,), dynamic_shapes=free)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".pt2":
            with path.open("wb") as file:  # torch itself says only where in its own code it could not open one
                torch.export.save(program, file)
        else:
            torch.onnx.export(program, dynamo=True, verbose=False).save(path)  # type: ignore[union-attr]
    except OSError as error:
        raise BadInput(f"the export {path} cannot be written: {error.strerror or first_line(error)}.") from error
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise BadInput(f"this model cannot be exported to {path.suffix}: {first_line(error)}") from error
    return path


def _checked_target(target: str | os.PathLike[str]) -> Path:
    """The file to write, before anything is loaded for it. Raises ``BadInput`` where it can be none."""
    path = Path(target)
    if path.suffix not in (".pt2", ".onnx"):
        raise BadInput(f"the export {path.name} must end in .pt2 (torch.export) or .onnx.")
    if path.suffix == ".onnx":
        check_onnx()
    return path


def check_onnx() -> None:
    """Raise ``BadInput`` where what ONNX needs is not installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"ONNX needs {' and '.join(missing)}, which is not installed: pip install 'raytune_rl[onnx]'.")
