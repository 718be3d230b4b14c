"""The directory of a run: begun, or taken up where an earlier session left it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.rllib.settings import Agent
from raytune_rl.rundir import layout
from raytune_rl.rundir.environment import describe_experiment
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.plain import plain
from raytune_rl.tune.storage import StateStore, refuse_foreign

DIFFERENCES = 3
"""So many fields are named where an experiment is not the one of the run that it is to go on with."""

MAY_DIFFER = frozenset(
    {
        "average",
        "callbacks",
        "checkpoint_every",
        "compare",
        "ensemble",
        "resources",
        "segment_timeout",
        "stop",
        "storage_path",
    }
)
"""Fields that a resumed run may change: they say how long and where to train, not what."""


def unused(directory: RunDirectory) -> RunDirectory:
    """A directory that a run can begin in; nothing is made yet.

    Raises:
        BadInput: it holds a run, or something else.
    """
    try:
        directory.check_unused()
    except OSError as error:
        raise BadInput(str(error)) from None
    return directory


def begin(directory: RunDirectory, experiment: Experiment) -> None:
    """Make the directory, and say in it what is run: whatever happens from now on, it can be gone on with.

    Raises:
        BadInput: it cannot be made.
    """
    try:
        directory.create()
    except OSError as error:
        raise BadInput(f"--out {directory} cannot be made: {error.strerror or error}.") from None
    content = describe_experiment(name=experiment.name, experiment=resolved_fields(experiment), seed=experiment.seed)
    directory.write_json(layout.EXPERIMENT, {**content, "agent": who_decides(experiment)})


def resolved_fields(experiment: Experiment) -> dict[str, Any]:
    """All fields of an experiment by name, for ``experiment.json``. Hyperparameters with what they were taken for:
    kind, role, range, scale. A resumed run must have the same."""
    space = {h.name: {"kind": type(h).__name__, **asdict(h)} for h in experiment.space()}
    resolved = {"hyperparameters": space, "reward": experiment.pay}
    return {f.name: getattr(experiment, f.name) for f in fields(experiment)} | resolved


def opened(directory: RunDirectory, experiment: Experiment) -> RunDirectory:
    """The directory of a run that is to go on.

    Raises:
        BadInput: there is no run, others could have tampered with its pickles, or it was made by another experiment.
            (A run of an older version does not name the fields that came later: there they had their defaults.)
    """
    try:
        directory.open()
        if directory.local is not None:
            refuse_foreign(directory.local)
        StateStore(directory.uri(f"{layout.STATE}/driver")).load()  # raises if another version has written it
    except (OSError, ValueError) as error:
        raise BadInput(f"--resume {directory}: {error}") from None
    there = directory.read_json(layout.EXPERIMENT)["experiment"]
    here = plain(resolved_fields(experiment))
    assert isinstance(here, dict)
    since = {f.name for f in fields(Experiment) if f.name not in there and here[f.name] == plain(f.default)}
    found = list(_differences(there, {n: value for n, value in here.items() if n not in MAY_DIFFER | since}))
    if found:
        told = [f"{name} is {_short(was)} there and {_short(now)} here" for name, was, now in found[:DIFFERENCES]]
        more = [f"and {len(found) - DIFFERENCES} more"] if len(found) > DIFFERENCES else []
        raise BadInput(f"--resume {directory}: the experiment is not the one of that run: {'; '.join(told + more)}.")
    return directory


def _differences(there: Any, here: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The fields of ``here`` that are others in ``there``: where, and both values."""
    for name, now in here.items():
        was = there.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from _differences(was, {**dict.fromkeys(was), **now}, f"{path}{name}.")
        elif was != now:
            yield f"{path}{name}", was, now


def who_decides(experiment: Experiment) -> str:
    """Who decides, as people are told."""
    agent = experiment.agent
    return agent.algorithm if isinstance(agent, Agent) else repr(agent)


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
