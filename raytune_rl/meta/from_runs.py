"""Reads decisions and their consequences from the tables of finished runs, to learn from them (``--from-runs``).

A run directory has the observation and action of every decision, and the result of every segment with the parent of
its weights, in Parquet and JSON. Nothing is unpickled, and the policy that decided does not matter. Nothing here
imports Ray.
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
"""Fields of an experiment. Two runs that agree in all of them are populations of the same task, and can be compared."""
COSINES: Final = ("Pretrained", "Cosine")
"""Agents that apply a cosine to the learning rates, whatever the experiment's schedule is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberDecisions:
    """The T decisions of one member, in order.

    Attributes:
        member: the member's column in the run's arrays.
        segments: the segments that the decisions opened, (T,).
        observations: (T, F), without empty slots.
        actions: (T, hyperparameters + 1), the source last.
        rewards: the run's rewards, (T,).
    """

    member: int
    segments: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Team:
    """The ensemble and the members' contributions to it, on validation (``mdp.ensemble_stats``).

    Attributes:
        contribution: (segments, members); NaN after a segment that failed. A member that has ended keeps the
            contribution of its last segment.
        score: score of the greedy ensemble, (segments,).
    """

    contribution: np.ndarray
    score: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """What was read from one run.

    Attributes:
        directory: of the run.
        task: a text that is the same for all runs of the same task.
        hyperparameters: their number.
        members: decisions of the members that a policy decided about.
        left_out: number of decisions that are left out, see ``read_run``.
        validation: scores (``mdp.score``), ``PENALTY`` where there is none; (segments, members).
        parent, parent_segment: the member whose weights a segment started from, and the segment that these had been
            trained in last (-1: they were initial weights); (segments, members).
        team: only if the ensemble was the objective.
    """

    directory: str
    task: str
    hyperparameters: int
    members: tuple[MemberDecisions, ...]
    left_out: int
    validation: np.ndarray
    parent: np.ndarray
    parent_segment: np.ndarray
    team: Team | None = None

    @property
    def decisions(self) -> int:
        return sum(len(member.segments) for member in self.members)


def read_run(directory: str | Path) -> Recorded:
    """Read a run directory.

    A controller works with learning rates that follow a cosine, where keeping them is a good schedule. In a run without
    a cosine, moves of a learning rate mean something else, so decisions with such a move after the start are left out.

    Raises:
        BadInput: one sentence why the run cannot be used: there is none, it has not finished, it is of another version,
            its observations or actions are different, or no policy decided anything.
    """
    where = f"--from-runs {directory}"
    try:
        run = Run.load(directory)
    except (OSError, ValueError) as error:
        raise BadInput(f"{where}: {error}") from None
    if not run.finished:
        raise BadInput(f"{where}: the run has not finished; go on with it first (--resume).")
    fields = {"objective": "single", **run.fields}  # the first version knew no other objective
    names = _names(run, where)
    decided = run.decisions[run.decisions["act/source"].notna()]
    actions = decided[[f"act/{name}" for name in (*names, "source")]].to_numpy(dtype=np.int64)
    sizes = np.array([LEVELS] * len(names) + [len(SOURCES)])
    if ((actions < 0) | (actions >= sizes)).any():
        raise BadInput(f"{where}: its actions are not this version's, so nothing can be learned from it.")
    decided, actions, left_out = _valid_under_cosine(run, names, decided, actions)
    if decided.empty:
        raise BadInput(f"{where}: no policy decided anything in it that could be learned from.")
    columns = pd.Index(sorted(run.segments["member"].unique()))
    validation, parent, parent_segment = _scores_and_parents(run, columns)
    observations = decided[_observation_columns(names)].to_numpy(dtype=np.float32)
    if np.isnan(observations).any():
        raise BadInput(f"{where}: another version of raytune_rl made some of its decisions.")
    rewards = decided["reward"].fillna(0.0).to_numpy(dtype=np.float32)
    members = []
    for member in decided["member"].unique():
        rows = np.flatnonzero(decided["member"] == member)
        members.append(
            MemberDecisions(
                member=columns.get_loc(member),
                segments=decided["segment"].to_numpy()[rows],
                observations=observations[rows],
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


def _observation_columns(names: Sequence[str]) -> list[str]:
    """The table's columns that make up the observation, in its order."""
    slots = [f"obs/hp/{name}/{row.name}" for name in names for row in SLOT_FEATURES]
    return [f"obs/{row.name}" for row in MEMBER_FEATURES] + slots


def _names(run: Run, where: str) -> list[str]:
    """The hyperparameters' names, in the order of the observation. Raises ``BadInput`` if observations or actions are
    not those of this version."""
    observed = [column for column in map(str, run.decisions) if column.startswith("obs/")]
    ending = f"/{SLOT_FEATURES[0].name}"
    firsts = [column for column in observed if column.startswith("obs/hp/") and column.endswith(ending)]
    names = [column.removeprefix("obs/hp/").removesuffix(ending) for column in firsts]
    for column in (*_observation_columns(names), *(f"act/{name}" for name in names), "act/source"):
        if column not in run.decisions:
            raise BadInput(f"{where}: its decisions have no {column}; another version of raytune_rl made them.")
    unknown = [column for column in observed if column not in _observation_columns(names)]
    if unknown or not names:
        what = unknown[0] if unknown else "no hyperparameter"
        raise BadInput(f"{where}: its decisions saw {what}, which this version cannot read.")
    return names


def _valid_under_cosine(
    run: Run, names: Sequence[str], decided: pd.DataFrame, actions: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """The decisions and actions that mean the same under a cosine, and how many decisions are left out."""
    agent = str(run.fields.get("agent")).rsplit(":", 1)[-1]
    if run.fields.get("schedule", "constant") != "constant" or agent in COSINES:
        return decided, actions, 0
    space: Mapping[str, Any] = run.fields.get("hyperparameters") or {}
    rates = [i for i, name in enumerate(names) if (space.get(name) or {}).get("role") == "learning_rate"]
    moved = (actions[:, rates] != STAY).any(axis=1) & (decided["segment"] > 0).to_numpy()
    return decided[~moved], actions[~moved], int(moved.sum())


def _scores_and_parents(run: Run, members: pd.Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``validation``, ``parent`` and ``parent_segment`` of ``Recorded``. After a member's early end its scores are
    ``PENALTY``, and it is its own parent."""
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
    at_copies = at[0][copied], at[1][copied]
    parent[at_copies] = members.get_indexer(pd.Index(rows["copied_from"][copied]))
    parent_segment[at_copies] = rows["copied_segment"][copied].fillna(-1)
    return validation, parent, parent_segment


def _team(run: Run, members: pd.Index, where: str) -> Team:
    """The ensemble's results. Members report at different times, so a segment has several ensembles; their mean loss
    counts."""
    names = ("metric/ensemble_contribution", "metric/ensemble_loss")
    if missing := [name for name in names if name not in run.segments]:
        raise BadInput(f"{where}: its segments have no {missing[0]}; another version of raytune_rl made them.")
    contributions, losses = [
        run.segments.pivot(index="segment", columns="member", values=name).reindex(columns=members).astype(float)
        for name in names
    ]
    contribution = contributions.to_numpy(copy=True)
    ends = run.segments.groupby("member")["segment"].max().reindex(members)
    last = contributions.index.get_indexer(pd.Index(ends))
    for member, segment in enumerate(last):
        contribution[segment + 1 :, member] = contribution[segment, member]
    scores = losses.mean(axis=1).map(Score(metric="loss", mode="min").of, na_action="ignore")
    return Team(contribution=contribution, score=scores.ffill().fillna(PENALTY).to_numpy(dtype=float))
