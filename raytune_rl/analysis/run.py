"""A run as tables: what a run directory holds, read once, and what follows from it.

Reading is all that happens here. Nothing is unpickled, nothing is written, and a run that is still going on is read as
it stands at the moment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from raytune_rl.analysis import frames, influence
from raytune_rl.analysis import lineage as ancestry
from raytune_rl.analysis.scales import Scale, scale_of
from raytune_rl.analysis.schedule import Leg, Schedule
from raytune_rl.errors import BadInput
from raytune_rl.records import Incumbent, Mode
from raytune_rl.rundir import layout
from raytune_rl.rundir.layout import RunDirectory, SchemaError
from raytune_rl.rundir.plain import python_value
from raytune_rl.rundir.schemas import decisions_schema, segments_schema
from raytune_rl.rundir.summary import best_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, finished or not.

    >>> from raytune_rl.analysis import Run
    >>> run = Run.load("results/quickstart/2026-11-24_12-00-00")  # doctest: +SKIP
    >>> run.members.sort_values("best").head()  # doctest: +SKIP
    >>> run.schedule().save("best_schedule.json")  # doctest: +SKIP

    Attributes:
        directory: the run directory, as it was given.
        experiment: the content of ``experiment.json``.
        segments: one row per member and segment, ordered so: ``member, segment, steps, trial_id, node, seconds,
            copied_from, copied_segment, status, hp/<name>, metric/<name>``.
        decisions: one row per decision that a segment was trained by: ``member, segment, policy_version, reward, logp,
            value, source, obs/<feature>, act/<name>``.
        summary: the content of ``summary.json``; None while the run goes on (or was interrupted).
        baseline: like ``segments``, of the random search that ran beside; None without one.
    """

    directory: str
    experiment: Mapping[str, Any] = field(repr=False)
    segments: pd.DataFrame = field(repr=False)
    decisions: pd.DataFrame = field(repr=False)
    summary: Mapping[str, Any] | None = field(default=None, repr=False)
    baseline: pd.DataFrame | None = field(default=None, repr=False)

    @classmethod
    def load(cls, directory: str | os.PathLike[str] | RunDirectory) -> Run:
        """Read a run directory: a path, any URI that ``pyarrow.fs`` opens, or a ``RunDirectory``.

        Raises:
            FileNotFoundError: there is no run.
            SchemaError: (a ``ValueError``) it was written by a newer version, or is damaged.
            ValueError: a URI that ``pyarrow.fs`` does not know.
        """
        found = (directory if isinstance(directory, RunDirectory) else RunDirectory(directory)).open()
        # In this order: the writer puts segments before decisions, and the summary at the end. So every decision has
        # its segment, and a summary has all of them, also where the run goes on meanwhile.
        summary = found.read_json(layout.SUMMARY) if found.finished else None
        experiment = found.read_json(layout.EXPERIMENT)
        if not isinstance(experiment.get("experiment"), dict):
            raise SchemaError(f"{found.uri(layout.EXPERIMENT)} is damaged: it describes no experiment.")
        empty = decisions_schema([], []).empty_table().to_pandas()
        decisions = found.read_table(layout.DECISIONS) if found.names(layout.DECISIONS) else empty
        inside = f"{layout.RANDOM_SEARCH}/{layout.SEGMENTS}"
        baseline = found.read_table(inside) if found.names(inside) else None
        return cls(
            directory=str(found),
            experiment=experiment,
            segments=_segments(found, experiment),
            decisions=decisions,
            summary=summary,
            baseline=None if baseline is None or baseline.empty else baseline,
        )

    # -- what it was ---------------------------------------------------------------------------------------------------

    @property
    def fields(self) -> Mapping[str, Any]:
        """The experiment's fields, as plain JSON."""
        content: Mapping[str, Any] = self.experiment["experiment"]
        return content

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.experiment.get("name") or "run")

    @property
    def seed(self) -> int | None:
        return self.experiment.get("seed")

    @property
    def metric(self) -> str:
        """What members are judged by, without ``metric/``."""
        return str(self.fields["metric"])

    @property
    def mode(self) -> Mode:
        """``min`` or ``max``: the direction of ``metric``."""
        return "max" if self.fields["mode"] == "max" else "min"

    @property
    def agent(self) -> str:
        """Who decided: the algorithm's name, or the rule's."""
        agent = self.fields.get("agent")
        if self.summary is not None and self.summary.get("agent"):
            return str(self.summary["agent"]["algorithm"])
        if isinstance(told := self.experiment.get("agent"), str):
            return told
        if isinstance(agent, Mapping) and "algorithm" in agent:
            return str(agent["algorithm"])
        return str(agent).rsplit(":", 1)[-1] if agent else "agent"

    @property
    def planned(self) -> int | None:
        """Segments that the whole population was to train; None where that is open."""
        population, segments = self.fields.get("population"), self.fields.get("segments")
        return population * segments if isinstance(population, int) and isinstance(segments, int) else None

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Their names, in order."""
        return frames.names_under(self.segments, frames.HYPERPARAMETER)

    @cached_property
    def scales(self) -> Mapping[str, Scale]:
        """How each hyperparameter lies on an axis."""
        space = self.fields.get("hyperparameters")
        described = {n: e for n, e in space.items() if isinstance(e, Mapping)} if isinstance(space, Mapping) else {}
        scales = {}
        for name in self.hyperparameters:
            flag = self.decisions.get(f"{influence.OBSERVATION}hp/{name}/log")
            seen = flag is not None and bool(flag.max() > 0)
            scales[name] = scale_of(name, self.segments[frames.HYPERPARAMETER + name], described.get(name), seen)
        return scales

    # -- what came of it -----------------------------------------------------------------------------------------------

    @cached_property
    def best(self) -> Incumbent | None:
        """The best segment of any member by validation; from the summary, or of the table while there is none."""
        told = self.summary.get("best") if self.summary is not None else None
        if not told:
            return best_of(self.segments, self.metric, self.mode)
        return Incumbent(
            member=told["member"],
            segment=told["segment"],
            value=told["value"],
            metrics=told["metrics"],
            hyperparameters=told["hyperparameters"],
        )

    @cached_property
    def anytime(self) -> pd.DataFrame:
        """What had been reached after each segment, by all members: ``trained, seconds, best, now_best, now_low,
        now_median, now_high, members``; see ``frames.anytime``."""
        return frames.anytime(self.segments, self.metric, self.mode)

    @cached_property
    def members(self) -> pd.DataFrame:
        """One row per member (the index).

        ``segments, steps, seconds`` (training seconds), ``failures`` (segments that failed, hung or diverged),
        ``first, last, best, best_segment`` (of the metric), ``copies_taken`` and ``copies_given`` (weights from and to
        other members), ``rollbacks`` (to the own best), ``on_best_path`` (segments that the best weights were trained
        in by this member), and ``start/<name>``, ``end/<name>`` per hyperparameter.
        """
        return frames.member_table(self.segments, self.lineage, self.best_path, self.metric, self.mode)

    @cached_property
    def lineage(self) -> pd.DataFrame:
        """One row per copy of weights, in the order of segments.

        - ``segment, receiver``: the segment of the receiver that began with the copied weights;
        - ``donor, donor_segment``: whose weights, and in which segment those had been trained last;
        - ``kind``: ``best``, ``second``, ``incumbent``, ``own_best`` (the action that led here; ``member`` where that
          is unknown), ``restart`` (back to the own best after a failure) or ``floor`` (after a collapse);
        - ``value_before, value_donor, value_after``: the metric of the receiver before, of the donor, and of the
          receiver after the first segment; ``gain``: what that segment gained over before (positive is better);
        - ``segments_later, value_later, gain_later``: the same up to ``lineage.HORIZON`` segments after that, but not
          beyond the next copy; ``donor_later``: where the donor itself was after as many more segments;
        - ``kept``: segments that the receiver trained until the next copy or the end;
        - ``on_best_path``: the best weights descend from this copy.
        """
        return ancestry.copy_table(
            self.segments,
            self.decisions,
            parent=self._parents,
            best=self._best_rows,
            metric=self.metric,
            mode=self.mode,
        )

    @cached_property
    def best_path(self) -> pd.DataFrame:
        """The rows of ``segments`` that the best weights were trained in, in training order."""
        return self.segments.iloc[self._best_rows].reset_index(drop=True)

    @cached_property
    def founders(self) -> pd.DataFrame:
        """How the population's weights go back to those that members started with: one row per segment, one column per
        founder (a member), the share of the segment's members that descend from it."""
        rows = ancestry.founders(self._parents)
        members = np.where(rows >= 0, self.segments["member"].to_numpy()[rows], -1)
        return pd.crosstab(self.segments["segment"], pd.Series(members, name="founder"), normalize="index")

    def schedule(self, member: int | None = None, segment: int | None = None) -> Schedule:
        """The hyperparameters, segment by segment, that led to some weights: by default to the best ones.

        Args:
            member: whose weights; default: the best member's (at its best segment), or, where rows of its path were
                trained again after a crash, the best ones' whose path is whole.
            segment: after which of its segments; default: its last one.

        Raises:
            BadInput: nothing was trained, there is no such segment, or its path is not wholly in the table.
        """
        if member is None:
            rows = self._best_rows
            if not rows:
                raise BadInput(f"{self.directory} has no best member yet, so there is no schedule to export.")
            rows = self._told(rows)
        else:
            of_member = np.flatnonzero((self.segments["member"] == member).to_numpy(dtype=bool))
            indices = self.segments["segment"].to_numpy()[of_member]
            chosen = of_member[indices == (indices.max(initial=-1) if segment is None else segment)]
            if not len(chosen):
                what = f"member {member}" if segment is None else f"member {member}, segment {segment}"
                raise BadInput(f"{self.directory} has no row of {what}.")
            rows = ancestry.path_to(self._parents, int(chosen[0]))
        return self._schedule(rows)

    # -- inside --------------------------------------------------------------------------------------------------------

    @cached_property
    def _parents(self) -> ancestry.Rows:
        return ancestry.parents(self.segments)

    @cached_property
    def _best_rows(self) -> list[int]:
        """The rows of the best weights' path; none where nothing is known of them."""
        for best in (self.best, best_of(self.segments, self.metric, self.mode)):
            if best is not None:
                row = ancestry.find_rows(self.segments, np.array([best.member]), np.array([best.segment]))[0]
                if row >= 0:
                    return ancestry.path_to(self._parents, int(row))
        return []

    def _told(self, rows: list[int]) -> list[int]:
        """The path ``rows``, or the best one that is wholly in the table."""
        if self._is_whole(rows):
            return rows
        sign = 1 if self.mode == "min" else -1
        values = sign * frames.sound_values(self.segments, self.metric)
        for row in np.argsort(values, kind="stable"):
            path = ancestry.path_to(self._parents, int(row))
            if np.isfinite(values[row]) and self._is_whole(path):
                taken = self.segments.iloc[int(row)]
                log.warning(
                    "the path to the best weights is not wholly in the table (rows were trained again after a crash); "
                    "instead: the path to member %d, segment %d",
                    taken["member"],
                    taken["segment"],
                )
                return path
        return rows

    def _is_whole(self, rows: list[int]) -> bool:
        """Whether a path begins where its weights were new."""
        first = self.segments.iloc[rows[0]]
        copied = pd.notna(first["copied_from"]) and (first["copied_segment"] or 0) >= 0
        return bool(self._parents[rows[0]] < 0 and not copied)

    def _schedule(self, rows: list[int]) -> Schedule:
        path = self.segments.iloc[rows]
        if not self._is_whole(rows):
            raise BadInput(
                f"the path to member {path.iloc[-1]['member']}, segment {path.iloc[-1]['segment']} is not wholly in "
                "the table (rows were trained again after a crash), so its schedule cannot be told."
            )
        columns = [frames.HYPERPARAMETER + name for name in self.hyperparameters]
        values = path[columns].ffill().bfill()
        reached = frames.sound_values(path, self.metric).tolist()
        cells = values.astype(object).to_numpy().tolist()
        legs = []
        for member, segment, value, row in zip(path["member"], path["segment"], reached, cells, strict=True):
            known = zip(self.hyperparameters, row, strict=True)
            legs.append(
                Leg(
                    member=int(member),
                    segment=int(segment),
                    hyperparameters={name: python_value(cell) for name, cell in known if not pd.isna(cell)},
                    value=value if np.isfinite(value) else None,
                )
            )
        return Schedule(
            name=self.name,
            metric=self.metric,
            mode=self.mode,
            segment_length=int(self.fields.get("segment_length") or 1),
            legs=tuple(legs),
        )


def _segments(directory: RunDirectory, experiment: Mapping[str, Any]) -> pd.DataFrame:
    """The table; an empty one with its columns before there is one."""
    if directory.names(layout.SEGMENTS):
        return directory.read_table(layout.SEGMENTS)
    names = experiment["experiment"].get("hyperparameters") or {}
    import pyarrow as pa

    empty: pd.DataFrame = segments_schema({name: pa.float64() for name in names}).empty_table().to_pandas()
    return empty
