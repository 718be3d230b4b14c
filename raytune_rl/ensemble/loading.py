"""``raytune_rl.load``: the model or the ensemble of a run directory, in one call and without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import nn

from raytune_rl.ensemble.saving import KIND, load_ensemble
from raytune_rl.population.export import CONFIG, read_config
from raytune_rl.population.export import load as load_single

ENSEMBLE = "ensemble"


def load(
    directory: str | os.PathLike[str],
    network: Callable[..., nn.Module] | None = None,
    *,
    ensemble: bool = False,
) -> nn.Module:
    """The model of a run, on the CPU in eval mode: ``load(DIR)(inputs)``. Needs no Ray, but imports the module in which
    the network's function lives: where that one imports Ray, as experiments do, keep the function in one of its own.

    Args:
        directory: a run directory, or its ``best/`` or ``ensemble/``.
        network: the factory (for a single model also a module to fill), where the one that the files name cannot be
            imported here.
        ensemble: the run's ensemble instead of its best member; its outputs are those of a member, averaged.

    Nothing is unpickled. The files may come from anybody, so a name in them leads to nothing but a subclass of
    ``nn.Module`` or a function annotated to return one.

    Raises:
        ValueError: no exported model, one of a newer version, no factory to be had, weights that do not fit.
    """
    path = Path(directory)
    if ensemble and (path / ENSEMBLE / CONFIG).exists():
        path = path / ENSEMBLE
    if ensemble or is_ensemble(path):
        return load_ensemble(path, network)
    return load_single(path, network)


def is_ensemble(path: Path) -> bool:
    """Whether a folder holds an ensemble."""
    try:
        read_config(path, KIND)
    except ValueError:
        return False
    return True
