"""``ensemble/`` of a run directory: ``model.safetensors``, ``config.json`` and a model card, read back without Ray and
without any pickle."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.ensemble.links import checked_link, checked_weights
from raytune_rl.ensemble.model import EnsembleModel
from raytune_rl.files import replacing
from raytune_rl.population.export import (
    build_from,
    find_factory,
    importable_name,
    read_config,
    read_weights,
    write_model,
)
from raytune_rl.population.networks import arguments_of

if TYPE_CHECKING:
    from raytune_rl.ensemble.building import Built, Chosen

KIND = "torch-ensemble"
CARD = "README.md"


def save(built: Built, factory: Callable[..., nn.Module], directory: Path, card: str) -> None:
    """Write the ensemble; each file appears complete or not at all, the configuration last.

    Args:
        factory: of the members' networks.
        card: the text of ``README.md``.
    """
    model = built.model
    config = {
        "kind": KIND,
        "network": importable_name(factory),
        "link": model.link,
        **model.calibration.told(),
        "alike": model.alike,
        "input": {"shape": list(built.example.shape[1:]), "dtype": str(built.example.dtype).removeprefix("torch.")},
        "weights": [one.weight for one in built.members],
        "members": [_described(one, factory) for one in built.members],
        "metrics": {name: value if math.isfinite(value) else None for name, value in built.metrics.items()},
    }
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / CARD) as path:
        path.write_text(card, encoding="utf-8")
    write_model(directory, {name: value.clone() for name, value in model.state_dict().items()}, config)


def load_ensemble(directory: str | os.PathLike[str], network: Callable[..., nn.Module] | None = None) -> EnsembleModel:
    """The ensemble in ``directory``, on the CPU in eval mode; times for a moment which way of calling its members is
    faster here. Needs no Ray.

    Args:
        directory: holds ``model.safetensors`` and ``config.json`` of an ensemble.
        network: the members' factory, where the one that the file names cannot be imported here.

    Raises:
        ValueError: no ensemble, one of a newer version, no factory to be had, weights that do not fit.
    """
    path = Path(directory)
    config = read_config(path, KIND)
    factory = network if network is not None else find_factory(config.get("network"), path)
    members = config.get("members")
    if not isinstance(members, list) or not all(isinstance(m, dict) and "arguments" in m for m in members):
        raise ValueError(f"{path} lists no members of an ensemble.")
    try:
        model = EnsembleModel(
            [build_from(factory, member) for member in members],
            checked_weights(config.get("weights"), len(members)),
            link=checked_link(config.get("link")),
            calibration=Calibration.read(config),
            alike=bool(config.get("alike")),
        )
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ValueError(f"The weights of {path} do not fit the network: {' '.join(str(error).split())}") from error
    model.tune(example_of(config))
    return model


def example_of(config: Mapping[str, Any]) -> torch.Tensor:
    """One row of zeros in the shape and type of the ensemble's inputs. Raises ``ValueError``."""
    given = config.get("input")
    dtype = getattr(torch, str(given.get("dtype")), None) if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(dtype, torch.dtype):
        raise ValueError("the ensemble's configuration does not say what its inputs look like.")
    return torch.zeros(1, *given["shape"], dtype=dtype)


def _described(one: Chosen, factory: Callable[..., nn.Module]) -> dict[str, Any]:
    state = one.kept.state
    return {
        "member": one.kept.member,
        "segment": one.kept.segment,
        "origin": one.kept.origin,
        "ingredients": [{"member": member, "segment": segment} for member, segment in one.ingredients],
        "weight": one.weight,
        "loss": one.loss,
        "arguments": arguments_of(factory, state["hyperparameters"]),
        "hyperparameters": state["hyperparameters"],
    }
