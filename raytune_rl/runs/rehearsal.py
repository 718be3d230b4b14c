"""Checks in this process before Ray starts, so that a user's mistake gives one sentence and not a failed trial."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import torch

from raytune_rl.ensemble.finishing import MOST_GIB
from raytune_rl.errors import OWN_FILES, BadInput, first_line, user_traceback
from raytune_rl.experiment import Experiment
from raytune_rl.population.candidate import MemberContext
from raytune_rl.population.cross_fitting import pooled
from raytune_rl.population.networks import build_network
from raytune_rl.population.splits import CPU, load_splits
from raytune_rl.population.torch_task import TorchTask

logger = logging.getLogger(__name__)

STATES_KEPT = 6
"""Size of a member's states, in networks: its best and its last weights, each with two moments of the optimiser."""


def rehearse(experiment: Experiment, candidate: TorchTask) -> None:
    """Build one member of a torch task in this process, so that mistakes in data, network or loss are reported before
    any trial starts. Does nothing if trials have GPUs, since the network may need one. The data stay loaded for the
    summary.

    Raises:
        BadInput: the member cannot be built. Errors from the user's functions come with a traceback of the user's code.
    """
    if experiment.resources.get("GPU"):
        return
    space = experiment.space()
    try:
        candidate.build(MemberContext(member=0, seed=experiment.seed), space.decode([0.5] * len(space))).close()
    except Exception as error:
        raised_at = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, ValueError) and raised_at.startswith(OWN_FILES):  # our own error: its sentence is enough
            raise BadInput(f"candidate: {error}") from None
        raise BadInput(f"{user_traceback(error).rstrip()}\nThe candidate cannot be made: {first_line(error)}") from None
    _warn_of_nan(candidate)


def _warn_of_nan(candidate: TorchTask) -> None:
    """Warn of NaN and infinity in the data. They are no error, since some networks can handle missing values, but most
    diverge."""
    splits = load_splits(candidate.data, CPU)
    for name in ("train", "validation", "test"):
        split = getattr(splits, name)
        for part in ("inputs", "targets"):
            values = None if split is None else getattr(split, part)
            if values is not None and values.is_floating_point() and not values.isfinite().all():
                logger.warning("%s of the %s split hold NaN or infinity", part, name)


def check_refit(experiment: Experiment, candidate: Any) -> None:
    """Check that a candidate can be refitted, by loading its data and building one network in this process.

    Raises:
        BadInput: its train and validation rows cannot be pooled, or its states are too large for a refit.
    """
    try:
        pooled(load_splits(candidate.data, CPU))
    except Exception as error:
        raise BadInput(f"refit is True, and the candidate's data do not suit it: {first_line(error)}.") from None
    space = experiment.space()
    with torch.random.fork_rng(devices=[]):
        network = build_network(candidate.network, space.decode([0.5] * len(space)), device=CPU).network
    network_bytes = sum(p.numel() * p.element_size() for p in network.parameters())
    kept = STATES_KEPT * experiment.population * network_bytes / 2**30
    if kept > MOST_GIB:
        raise BadInput(
            f"refit is True, and the states of {experiment.population} such networks take about {kept:.1f} GiB; a "
            f"refit reads them all, which it does up to {MOST_GIB:g} GiB."
        )
