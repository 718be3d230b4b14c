"""The directory of a run: begins a new one, or checks an existing one before it is resumed."""

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
"""The largest number of differing fields that the error names if an experiment is not that of the run to resume."""

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
"""Fields that may change when a run is resumed. None of them changes how members are trained."""


def unused(directory: RunDirectory) -> RunDirectory:
    """``directory``, after checking that a run can begin in it. Creates nothing.

    Raises:
        BadInput: it holds a run or other files.
    """
    try:
        directory.check_unused()
    except OSError as error:
        raise BadInput(str(error)) from None
    return directory


def begin(directory: RunDirectory, experiment: Experiment) -> None:
    """Create the directory and write ``experiment.json``. From now on, the run can be resumed.

    Raises:
        BadInput: the directory cannot be created.
    """
    try:
        directory.create()
    except OSError as error:
        raise BadInput(f"--out {directory} cannot be made: {error.strerror or error}.") from None
    content = describe_experiment(name=experiment.name, experiment=resolved_fields(experiment), seed=experiment.seed)
    directory.write_json(layout.EXPERIMENT, {**content, "agent": who_decides(experiment)})


def resolved_fields(experiment: Experiment) -> dict[str, Any]:
    """All fields of an experiment by name, for ``experiment.json``. Hyperparameters are described as they are
    understood (kind, role, range, scale), as a resumed run must have the same."""
    space = {h.name: {"kind": type(h).__name__, **asdict(h)} for h in experiment.space()}
    resolved = {"hyperparameters": space, "reward": experiment.pay}
    return {f.name: getattr(experiment, f.name) for f in fields(experiment)} | resolved


def opened(directory: RunDirectory, experiment: Experiment) -> RunDirectory:
    """``directory``, after checking that ``experiment`` can resume the run in it.

    Raises:
        BadInput: there is no run, others could have tampered with its pickles, or the run is of another experiment.
    """
    try:
        directory.open()
        if directory.local is not None:
            refuse_foreign(directory.local)
        StateStore(directory.uri(f"{layout.STATE}/driver")).check_version()
    except (OSError, ValueError) as error:
        raise BadInput(f"--resume {directory}: {error}") from None
    stored = directory.read_json(layout.EXPERIMENT)["experiment"]
    current = plain(resolved_fields(experiment))
    assert isinstance(current, dict)
    # a run of an older version lacks fields that were added later: their defaults were in force
    added = {f.name for f in fields(Experiment) if f.name not in stored and current[f.name] == plain(f.default)}
    compared = {name: value for name, value in current.items() if name not in MAY_DIFFER | added}
    differences = list(_differences(stored, compared))
    if differences:
        texts = [f"{name} is {_short(was)} there and {_short(now)} here" for name, was, now in differences]
        more = [f"and {len(texts) - DIFFERENCES} more"] if len(texts) > DIFFERENCES else []
        raise BadInput(
            f"--resume {directory}: the experiment is not the one of that run: {'; '.join(texts[:DIFFERENCES] + more)}."
            " (A resumed run needs the same --set and --seed as when it began.)"
        )
    return directory


def _differences(stored: Any, current: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The fields of ``current`` whose values differ in ``stored``: dotted path, stored value, current value."""
    for name, now in current.items():
        was = stored.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from _differences(was, {**dict.fromkeys(was), **now}, f"{path}{name}.")
        elif was != now:
            yield f"{path}{name}", was, now


def who_decides(experiment: Experiment) -> str:
    """A name for whatever makes the decisions: the algorithm of an agent, or a rule."""
    agent = experiment.agent
    return agent.algorithm if isinstance(agent, Agent) else repr(agent)


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
