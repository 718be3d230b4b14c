"""Distributes the members over trials: how many trials there are, which members share one, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.rundir import layout
from raytune_rl.rundir.environment import describe_environment
from raytune_rl.rundir.layout import RunDirectory

Resources: TypeAlias = Mapping[str, float]
"""Amounts by Ray's names: ``{"CPU": 2, "GPU": 0.5}``."""

ROUNDING = 1e-9
"""Tolerance for binary fractions: ten trials of 0.1 GPU fit on one GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which members share which trial, and why."""

    groups: tuple[tuple[int, ...], ...]
    reason: str


def place(
    *, population: int, members_per_trial: int | Literal["auto"], resources: Resources, nodes: Sequence[Resources]
) -> Placement:
    """Distribute the members over trials that can all run at once.

    ``"auto"`` makes as many trials as fit, up to one per member, so that no slot is idle. The members of a trial share
    its processes and its GPUs.

    Args:
        population: number of members, at least 1.
        members_per_trial: the largest number of members in a trial, or ``"auto"``.
        resources: of each trial.
        nodes: resources of each node of the cluster. A trial runs on a single node.

    Raises:
        BadInput: not even one trial fits, or fewer trials fit than ``members_per_trial`` requires.
    """
    needs = {name: amount for name, amount in resources.items() if amount > 0}
    _check_whole_gpus(needs)
    fit = sum(slots(needs, node) for node in nodes)
    if fit == 0:
        raise BadInput(f"resources asks for {_words(needs)} per trial, and {_lack(needs, nodes)}.")
    fits = "fits" if fit == 1 else "fit"
    room = f"{_count(fit, 'trial')} of {_words(needs)} {fits} at once on {_describe(nodes, needs)}"
    if members_per_trial == "auto":
        trials = min(population, fit)
        reason = f'members_per_trial="auto": {room}'
    else:
        trials = math.ceil(population / members_per_trial)
        reason = f"members_per_trial={members_per_trial}: {room}"
        if trials > fit:
            raise BadInput(
                f"members_per_trial is {members_per_trial}, which makes {trials} trials of {_words(needs)}, and only "
                f'{fit} can run at once on {_describe(nodes, needs)}; use "auto", more members per trial or smaller '
                "resources."
            )
    groups = tuple(tuple(int(m) for m in part) for part in np.array_split(np.arange(population), trials))
    return Placement(groups=groups, reason=f"{_count(population, 'member')} in {_count(trials, 'trial')}; {reason}")


def place_members(experiment: Experiment, nodes: Sequence[Resources]) -> Placement:
    """``place`` with the settings of an experiment. Raises ``BadInput`` as it does."""
    return place(
        population=experiment.population,
        members_per_trial=experiment.members_per_trial,
        resources=experiment.resources,
        nodes=nodes,
    )


def placement_of_run(
    directory: RunDirectory, experiment: Experiment, nodes: Sequence[Resources], *, resume: bool
) -> Placement:
    """Place the members, and store the groups in ``experiment.json``. A resumed run keeps its groups, since each trial
    needs its own state files again."""
    content = directory.read_json(layout.EXPERIMENT)
    if resume and "groups" in content:  # missing if the run was interrupted before its members were placed
        groups = tuple(tuple(group) for group in content["groups"])
        return Placement(groups=groups, reason=f"going on in the {len(groups)} trials that the run had")
    placement = place_members(experiment, nodes)
    directory.write_json(layout.EXPERIMENT, {**content, "groups": placement.groups})
    return placement


def slots(needs: Resources, node: Resources) -> int:
    """The number of trials that fit on a node at once."""
    return min(_fitting(name, node.get(name, 0.0), amount) for name, amount in needs.items())


def this_machine() -> Resources:
    """The CPUs and GPUs that a local Ray will have."""
    hardware = describe_environment()["hardware"]
    return {"CPU": hardware["cores"], "GPU": len(hardware["gpus"])}


def check_machine(resources: Resources, machine: Resources) -> None:
    """Raise ``BadInput`` if a trial asks for more than this ``machine`` has. Needs no Ray, unlike ``place``."""
    for name, amount in resources.items():
        if name in machine and amount > machine[name]:
            raise BadInput(f"resources asks for {amount:g} {name} per trial, and this machine has {machine[name]:g}.")


def _fitting(name: str, have: float, amount: float) -> int:
    """How many times ``amount`` of the resource ``name`` fits into what a node has of it."""
    if name == "GPU" and amount < 1:  # a fraction must come from a single GPU
        return math.floor(have + ROUNDING) * math.floor(1 / amount + ROUNDING)
    return math.floor(have / amount + ROUNDING)


def _check_whole_gpus(needs: Resources) -> None:
    gpus = needs.get("GPU", 0.0)
    if gpus > 1 and gpus != math.floor(gpus):
        raise BadInput(f"resources asks for {gpus:g} GPU per trial; above 1, Ray gives whole GPUs only.")


def _lack(needs: Resources, nodes: Sequence[Resources]) -> str:
    """Why no trial fits: names one resource if no node has enough of it."""
    for name, amount in needs.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            where = "the cluster" if len(nodes) == 1 else "no node"
            return f"{where} has {'more than ' if len(nodes) > 1 else ''}{most:g} {name}"
    return f"no node of {_describe(nodes, needs)} has all of that"


def _describe(nodes: Sequence[Resources], needs: Resources) -> str:
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in needs}
    return f"{_count(len(nodes), 'node')} with {_words(total)}"


def _words(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
