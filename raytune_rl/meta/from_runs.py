"""What finished runs have to teach: their tables, read back as decisions and what came of them (``--from-runs``).

A run directory tells every decision (what was seen, what was done) and every segment's result and descent, in Parquet
and JSON: nothing is unpickled, and who decided does not matter. No Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from raytune_rl.analysis.run import Run
from raytune_rl.errors import BadInput
from raytune_rl.hyperparameters import LEVELS, STAY
from raytune_rl.mdp.action import SOURCES
from raytune_rl.mdp.features import MEMBER_FEATURES, SLOT_FEATURES
from raytune_rl.mdp.score import PENALTY, Score

SAME_TASK: Final = (
    "candidate", "metric", "mode", "hyperparameters", "segments", "segment_length", "constants", "objective",
)  # fmt: skip
"""Fields of an experiment that make two runs populations of one task, which can be held against each other."""
COSINES: Final = ("Pretrained", "Cosine")
"""Agents that lay a cosine over the learning rates, whatever the experiment says."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """One member's decisions, T of them, in order.

    Attributes:
        member: its column in the run's arrays.
        segments: (T,), the segments that they opened.
        observations: (T, F), without empty slots.
        actions: (T, hyperparameters + 1), the source last.
        rewards: (T,), as the run paid them.
    """

    member: int
    segments: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Team:
    """What the members were to their ensemble, on validation (``mdp.ensemble_stats``).

    Attributes:
        contribution: (segments, members); NaN after a segment that went wrong; of a member that has ended, what it was
            after its last segment.
        score: of the greedy ensemble, (segments,).
    """

    contribution: np.ndarray
    score: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """One run.

    Attributes:
        directory: where it is.
        task: text that runs of the same task share.
        hyperparameters: how many.
        members: those that a policy decided about.
        left_out: decisions that are not told, see ``read_run``.
        validation: scores (``mdp.score``), ``PENALTY`` where there are none; (segments, members).
        parent, parent_segment: the member whose weights a segment started from, and the segment that those had been
            trained in last (-1: the initial ones); (segments, members).
        team: where the ensemble was the objective.
    """

    directory: str
    task: str
    hyperparameters: int
    members: tuple[Told, ...]
    left_out: int
    validation: np.ndarray
    parent: np.ndarray
    parent_segment: np.ndarray
    team: Team | None = None

    @property
    def decisions(self) -> int:
        return sum(len(told.segments) for told in self.members)


def read_run(directory: str | Path) -> Recorded:
    """The experience in a run directory.

    A controller steers under a cosine, where keeping a learning rate is a schedule already. In a run without one a
    move of it means something else, so decisions that made such a move after the start are left out.

    Raises:
        BadInput: one sentence why the run does not fit: there is none, it has not finished, it is of another version,
            its decisions saw or did something else, or nobody decided anything.
    """
    where = f"--from-runs {directory}"
    try:
        run = Run.load(directory)
    except (OSError, ValueError) as error:
        raise BadInput(f"{where}: {error}") from None
    if not run.finished:
        raise BadInput(f"{where}: the run has not finished; go on with it first (--resume).")
    fields = {"objective": "single", **run.fields}  # the first version had no other
    names = _names(run, where)
    decided = run.decisions[run.decisions["act/source"].notna()]
    actions = decided[[f"act/{name}" for name in (*names, "source")]].to_numpy(dtype=np.int64)
    sizes = np.array([LEVELS] * len(names) + [len(SOURCES)])
    if ((actions < 0) | (actions >= sizes)).any():
        raise BadInput(f"{where}: its actions are not this version's, so nothing can be learned from it.")
    decided, actions, left_out = _in_our_frame(run, names, decided, actions)
    if decided.empty:
        raise BadInput(f"{where}: no policy decided anything in it that could be learned from.")
    columns = pd.Index(sorted(run.segments["member"].unique()))
    validation, parent, parent_segment = _course(run, columns)
    seen = decided[_features(names)].to_numpy(dtype=np.float32)
    if np.isnan(seen).any():
        raise BadInput(f"{where}: another version of raytune_rl made some of its decisions.")
    rewards = decided["reward"].fillna(0.0).to_numpy(dtype=np.float32)
    members = []
    for member in decided["member"].unique():
        rows = np.flatnonzero(decided["member"] == member)
        members.append(
            Told(
                member=columns.get_loc(member),
                segments=decided["segment"].to_numpy()[rows],
                observations=seen[rows],
                actions=actions[rows],
                rewards=rewards[rows],
            )
        )
    return Recorded(
        directory=str(directory),
        task=json.dumps({name: fields.get(name) for name in SAME_TASK}, sort_keys=True),
        hyperparameters=len(names),
        members=tuple(members),
        left_out=left_out,
        validation=validation,
        parent=parent,
        parent_segment=parent_segment,
        team=_team(run, columns, where) if fields["objective"] == "ensemble" else None,
    )


def _features(names: Sequence[str]) -> list[str]:
    slots = [f"obs/hp/{name}/{row.name}" for name in names for row in SLOT_FEATURES]
    return [f"obs/{row.name}" for row in MEMBER_FEATURES] + slots


def _names(run: Run, where: str) -> list[str]:
    """The hyperparameters' names, in the order of the observation, if it is this version's observation."""
    observed = [column for column in map(str, run.decisions) if column.startswith("obs/")]
    ending = f"/{SLOT_FEATURES[0].name}"
    firsts = [column for column in observed if column.startswith("obs/hp/") and column.endswith(ending)]
    names = [column.removeprefix("obs/hp/").removesuffix(ending) for column in firsts]
    for column in (*_features(names), *(f"act/{name}" for name in names), "act/source"):
        if column not in run.decisions:
            raise BadInput(f"{where}: its decisions have no {column}; another version of raytune_rl made them.")
    unheard = [column for column in observed if column not in _features(names)]
    if unheard or not names:
        what = unheard[0] if unheard else "no hyperparameter"
        raise BadInput(f"{where}: its decisions saw {what}, which this version cannot read.")
    return names


def _in_our_frame(
    run: Run, names: Sequence[str], decided: pd.DataFrame, actions: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """Only what means the same under a cosine, and how many decisions that leaves out."""
    agent = str(run.fields.get("agent")).rsplit(":", 1)[-1]
    if run.fields.get("schedule", "constant") != "constant" or agent in COSINES:
        return decided, actions, 0
    space: Mapping[str, Any] = run.fields.get("hyperparameters") or {}
    rates = [i for i, name in enumerate(names) if (space.get(name) or {}).get("role") == "learning_rate"]
    moved = (actions[:, rates] != STAY).any(axis=1) & (decided["segment"] > 0).to_numpy()
    return decided[~moved], actions[~moved], int(moved.sum())


def _course(run: Run, members: pd.Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validation scores and descent, (segments, members) each. A member that stopped early has no score from
    then on, and descends from itself."""
    rows = run.segments
    shape = (int(rows["segment"].max()) + 1, len(members))
    validation = np.full(shape, PENALTY)
    parent = np.tile(np.arange(shape[1]), (shape[0], 1))
    parent_segment = np.tile(np.arange(shape[0])[:, None] - 1, (1, shape[1]))
    at = rows["segment"].to_numpy(), members.get_indexer(pd.Index(rows["member"]))
    score = Score(metric=run.metric, mode=run.mode)
    values = rows[f"metric/{run.metric}"].to_numpy(dtype=float, na_value=np.nan)
    validation[at] = np.vectorize(score.of, otypes=[float])(values)
    copied = rows["copied_from"].notna().to_numpy()
    there = at[0][copied], at[1][copied]
    parent[there] = members.get_indexer(pd.Index(rows["copied_from"][copied]))
    parent_segment[there] = rows["copied_segment"][copied].fillna(-1)
    return validation, parent, parent_segment


def _team(run: Run, members: pd.Index, where: str) -> Team:
    """Members report at different times, so that a segment has several ensembles: what counts is their mean loss."""
    names = ("metric/ensemble_contribution", "metric/ensemble_loss")
    if missing := [name for name in names if name not in run.segments]:
        raise BadInput(f"{where}: its segments have no {missing[0]}; another version of raytune_rl made them.")
    tables = [
        run.segments.pivot(index="segment", columns="member", values=name).reindex(columns=members).astype(float)
        for name in names
    ]
    contribution = tables[0].to_numpy(copy=True)
    ends = run.segments.groupby("member")["segment"].max().reindex(members)
    last = tables[0].index.get_indexer(pd.Index(ends))
    for member, segment in enumerate(last):
        contribution[segment + 1 :, member] = contribution[segment, member]
    scores = tables[1].mean(axis=1).map(Score(metric="loss", mode="min").of, na_action="ignore")
    return Team(contribution=contribution, score=scores.ffill().fillna(PENALTY).to_numpy(dtype=float))
