"""Exported models: ``model.safetensors`` and ``config.json``, written for users and read back without any pickle."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.files import replacing
from raytune_rl.population.calibrating import calibrate
from raytune_rl.population.candidate import State
from raytune_rl.population.networks import arguments_of
from raytune_rl.population.optimisers import to_tensor
from raytune_rl.records import SCHEMA_VERSION, Value

WEIGHTS, CONFIG = "model.safetensors", "config.json"
BEST = "best"


def export(
    factory: Callable[..., nn.Module],
    state: State,
    directory: Path,
    *,
    calibration: Calibration | None = None,
    binary: bool = False,
    parts: Sequence[Mapping[str, float]] = (),
    refit: Mapping[str, Any] | None = None,
) -> None:
    """Write the model of the snapshot ``state``, see ``write_model``.

    Args:
        calibration: of the model's outputs.
        binary: whether its outputs are logits of yes-or-no questions, see ``calibrating.calibrated``.
        parts: the members whose weights were averaged, if they were.
        refit: the refit that followed, if there was one: the rows it trained on, and what it gave.
    """
    values: dict[str, Value] = state["hyperparameters"]
    config = {
        "kind": "torch",
        "network": importable_name(factory),
        "arguments": arguments_of(factory, values),
        "hyperparameters": values,
        "metrics": {name: value if math.isfinite(value) else None for name, value in state["metrics"].items()},
        "member": state["member"],
        "steps": state["steps"],
        **(calibration or Calibration()).told(),
        "binary": binary,
        "parts": [dict(part) for part in parts],
        **({} if refit is None else {"refit": dict(refit)}),
    }
    write_model(directory, {name: to_tensor(array) for name, array in state["network"].items()}, config)


def load(directory: str | os.PathLike[str], network: Callable[..., nn.Module] | None = None) -> nn.Module:
    """The exported model of ``directory``, on the CPU in eval mode. Needs no Ray.

    Args:
        directory: holds ``model.safetensors`` and ``config.json``, or is a run directory with those in ``best/``.
        network: the factory, or a module to fill; needed if the factory that the file names cannot be imported here.

    Nothing is unpickled. ``config.json`` may come from anybody, so the name in it is only called if it is a subclass of
    ``nn.Module`` or a function annotated to return one.

    Raises:
        ValueError: no exported model, a newer schema version, no importable factory, or weights that do not fit.
    """
    path = Path(directory)
    if not (path / CONFIG).exists() and (path / BEST / CONFIG).exists():
        path = path / BEST
    config = read_config(path, "torch")
    module = network if isinstance(network, nn.Module) else None
    if module is None:
        module = build_from(network if network is not None else find_factory(config["network"], path), config)
    try:
        module.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ValueError(f"The weights of {path} do not fit the network: {' '.join(str(error).split())}") from error
    try:
        return calibrate(module.eval(), Calibration.read(config), binary=config.get("binary") is True)
    except ValueError as error:
        raise ValueError(f"{path / CONFIG}: {error}") from error


def build_from(factory: Callable[..., nn.Module], config: Mapping[str, Any]) -> nn.Module:
    """The network that ``config["arguments"]`` describes, without its trained weights. Raises ``ValueError``."""
    arguments = config["arguments"]
    try:
        return factory(**arguments)
    except TypeError as error:
        raise ValueError(f"The network function cannot be called with {arguments}: {error}.") from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of ``model.safetensors`` in a folder. Raises ``ValueError`` if it is missing or damaged."""
    try:
        return load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path / WEIGHTS} cannot be read: {error}.") from error


def restore(factory: Callable[..., nn.Module], state: State) -> nn.Module:
    """The model of a member's snapshot, on the CPU in eval mode."""
    # the initial weights are thrown away, but drawing them must not advance torch's global generator
    with torch.random.fork_rng(devices=[]):
        network = factory(**arguments_of(factory, state["hyperparameters"]))
    network.load_state_dict({name: to_tensor(array) for name, array in state["network"].items()})
    return network.eval()


def read_config(path: Path, kind: str) -> Mapping[str, Any]:
    """``config.json`` of a folder with an exported model of that ``kind``. Raises ``ValueError``."""
    if not path.is_dir():
        raise ValueError(f"There is no directory {path}.")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no exported model: {CONFIG} cannot be read ({error}).") from error
    if not isinstance(config, dict) or config.get("kind") != kind or not isinstance(config.get("arguments", {}), dict):
        raise ValueError(f"{path / CONFIG} does not describe a {kind} model.")
    version = config.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ValueError(f"{path / CONFIG} has schema version {version}; this raytune_rl reads up to {SCHEMA_VERSION}.")
    return config


def write_model(directory: Path, weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Write ``model.safetensors``, then ``config.json`` with the schema's version added. Each file appears complete or
    not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / WEIGHTS) as path:
        save_file(dict(weights), path)
    stamped = {"schema_version": SCHEMA_VERSION, **config}
    with replacing(directory / CONFIG) as path:
        path.write_text(json.dumps(stamped, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def importable_name(factory: Callable[..., nn.Module]) -> str | None:
    """``module:qualname``; ``None`` if ``find_factory`` could not find the factory by it (in scripts and closures)."""
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "<")
    return None if module in (None, "__main__") or "<" in name else f"{module}:{name}"


def find_factory(name: str | None, path: Path) -> Callable[..., nn.Module]:
    """The network's function with this ``name``, which the model in ``path`` records. Raises ``ValueError`` if it
    cannot be imported here or is not known to return a network."""
    advice = f"pass it: raytune_rl.load({str(path)!r}, network=...)"
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"The network's function in {path} has no importable name; {advice}.")
    module, _, qualname = name.partition(":")
    try:
        factory: Any = importlib.import_module(module)
        for part in qualname.split("."):
            factory = getattr(factory, part)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise ValueError(f"The network's function {name} cannot be imported here ({error}); {advice}.") from error
        raise ValueError(
            f"The network's function {name} cannot be imported here: its module {module}, or one that it imports, "
            f"imports Ray, which is not installed. Where models are used without Ray, {advice}, with a function from a "
            "module that does not import Ray; runs whose network lives in such a module load as they are."
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"The network's function {name} cannot be imported here ({error}); {advice}.") from error
    if not _returns_module(factory):
        raise ValueError(f"{name} is not annotated to return a torch.nn.Module, so it is not called; {advice}.")
    return typing.cast(Callable[..., nn.Module], factory)


def _returns_module(factory: Any) -> bool:
    if not inspect.isfunction(factory):
        return isinstance(factory, type) and issubclass(factory, nn.Module)
    try:
        returned = typing.get_type_hints(factory).get("return")
    except (NameError, TypeError):
        return False
    return isinstance(returned, type) and issubclass(returned, nn.Module)
