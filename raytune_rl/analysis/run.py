"""A run as tables: the content of a run directory, read once, and what is computed from it.

Nothing is unpickled and nothing is written. A run that is still in progress is read as far as it has come.
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
        segments: one row per member and segment, in that order: ``member, segment, steps, trial_id, node, seconds,
            copied_from, copied_segment, status, hp/<name>, metric/<name>``.
        decisions: one row per segment, with the decision that it was trained by: ``member, segment, policy_version,
            reward, logp, value, source, obs/<feature>, act/<name>``.
        summary: the content of ``summary.json``; None if the run is in progress or was interrupted.
        baseline: like ``segments``, of the random search that the run was compared with; None without one.
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
            FileNotFoundError: the directory holds no run.
            SchemaError: (a ``ValueError``) it was written by a newer version, or is damaged.
            ValueError: a URI that ``pyarrow.fs`` does not know.
        """
        source = (directory if isinstance(directory, RunDirectory) else RunDirectory(directory)).open()
        # The order matters while the run is in progress: the writer writes segments, then decisions, and the summary at
        # the end. Reading in the opposite order finds the segment of every decision, and all segments of a summary.
        summary = source.read_json(layout.SUMMARY) if source.finished else None
        experiment = source.read_json(layout.EXPERIMENT)
        if not isinstance(experiment.get("experiment"), dict):
            raise SchemaError(f"{source.uri(layout.EXPERIMENT)} is damaged: it describes no experiment.")
        empty = decisions_schema([], []).empty_table().to_pandas()
        decisions = source.read_table(layout.DECISIONS) if source.names(layout.DECISIONS) else empty
        baseline_name = f"{layout.RANDOM_SEARCH}/{layout.SEGMENTS}"
        baseline = source.read_table(baseline_name) if source.names(baseline_name) else None
        return cls(
            directory=str(source),
            experiment=experiment,
            segments=_read_segments(source, experiment),
            decisions=decisions,
            summary=summary,
            baseline=None if baseline is None or baseline.empty else baseline,
        )

    # -- what was run --------------------------------------------------------------------------------------------------

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
        """The metric that members are judged by, without ``metric/``."""
        return str(self.fields["metric"])

    @property
    def mode(self) -> Mode:
        """``min`` or ``max``: the direction of ``metric``."""
        return "max" if self.fields["mode"] == "max" else "min"

    @property
    def agent(self) -> str:
        """The name of the algorithm or rule that made the decisions."""
        agent = self.fields.get("agent")
        if self.summary is not None and self.summary.get("agent"):
            return str(self.summary["agent"]["algorithm"])
        if isinstance(name := self.experiment.get("agent"), str):
            return name
        if isinstance(agent, Mapping) and "algorithm" in agent:
            return str(agent["algorithm"])
        return str(agent).rsplit(":", 1)[-1] if agent else "agent"

    @property
    def planned(self) -> int | None:
        """The number of segments planned for the whole population; None if there is no limit."""
        population, segments = self.fields.get("population"), self.fields.get("segments")
        return population * segments if isinstance(population, int) and isinstance(segments, int) else None

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """The names of the hyperparameters, in order."""
        return frames.names_under(self.segments, frames.HYPERPARAMETER)

    @cached_property
    def scales(self) -> Mapping[str, Scale]:
        """The axis of each hyperparameter."""
        space = self.fields.get("hyperparameters")
        described = {n: e for n, e in space.items() if isinstance(e, Mapping)} if isinstance(space, Mapping) else {}
        scales = {}
        for name in self.hyperparameters:
            flag = self.decisions.get(f"{influence.OBSERVATION}hp/{name}/log")
            seen_as_log = flag is not None and bool(flag.max() > 0)
            scales[name] = scale_of(name, self.segments[frames.HYPERPARAMETER + name], described.get(name), seen_as_log)
        return scales

    # -- results -------------------------------------------------------------------------------------------------------

    @cached_property
    def best(self) -> Incumbent | None:
        """The best segment of any member by validation, from the summary, or from the table if there is no summary."""
        best = self.summary.get("best") if self.summary is not None else None
        if not best:
            return best_of(self.segments, self.metric, self.mode)
        return Incumbent(
            member=best["member"],
            segment=best["segment"],
            value=best["value"],
            metrics=best["metrics"],
            hyperparameters=best["hyperparameters"],
        )

    @cached_property
    def anytime(self) -> pd.DataFrame:
        """What the whole population had reached after each segment: ``trained, seconds, best, now_best, now_low,
        now_median, now_high, members``; see ``frames.anytime``."""
        return frames.anytime(self.segments, self.metric, self.mode)

    @cached_property
    def members(self) -> pd.DataFrame:
        """One row per member (the index).

        ``segments, steps, seconds`` (of training), ``failures`` (segments that failed, hung or diverged), ``first,
        last, best, best_segment`` (of the metric), ``copies_taken`` and ``copies_given`` (weights from and to other
        members), ``rollbacks`` (returns to its own best), ``on_best_path`` (segments in which it trained the best
        weights), and ``start/<name>``, ``end/<name>`` for each hyperparameter.
        """
        return frames.member_table(self.segments, self.lineage, self.best_path, self.metric, self.mode)

    @cached_property
    def lineage(self) -> pd.DataFrame:
        """One row per copy of weights, in the order of segments.

        - ``segment, receiver``: the segment of the receiver that began with the copied weights;
        - ``donor, donor_segment``: the member whose weights they are, and the segment in which it trained them last;
        - ``kind``: the action that led to the copy, ``best``, ``second``, ``incumbent`` or ``own_best`` (``member`` if
          it is unknown); or ``restart`` (back to its own best after a failure) or ``floor`` (after a collapse);
        - ``value_before, value_donor, value_after``: the metric of the receiver before the copy, of the donor, and of
          the receiver after its first segment; ``gain``: how much better the last is than the first (positive is
          better);
        - ``segments_later, value_later, gain_later``: the same up to ``lineage.HORIZON`` segments after that, but not
          beyond the next copy; ``donor_later``: the donor's value after the same number of further segments;
        - ``kept``: segments that the receiver trained until the next copy or the end;
        - ``on_best_path``: whether the best weights descend from this copy.
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
        """The rows of ``segments`` in which the best weights were trained, in training order."""
        return self.segments.iloc[self._best_rows].reset_index(drop=True)

    @cached_property
    def founders(self) -> pd.DataFrame:
        """Whose first weights the population descends from: one row per segment, one column per founder (a member),
        with the share of the segment's members that descend from it."""
        rows = ancestry.founders(self._parents)
        members = np.where(rows >= 0, self.segments["member"].to_numpy()[rows], -1)
        return pd.crosstab(self.segments["segment"], pd.Series(members, name="founder"), normalize="index")

    def schedule(self, member: int | None = None, segment: int | None = None) -> Schedule:
        """The hyperparameters, segment by segment, that led to given weights; by default, to the best weights.

        Args:
            member: the member whose weights these are. Default: the best member (at its best segment), or, if its path
                is incomplete because rows were trained again after a crash, the best one with a complete path.
            segment: the segment after which they are taken; default: the member's last one.

        Raises:
            BadInput: nothing was trained, there is no such segment, or the path to it is incomplete in the table.
        """
        if member is None:
            rows = self._best_rows
            if not rows:
                raise BadInput(f"{self.directory} has no best member yet, so there is no schedule to export.")
            rows = self._complete_path(rows)
        else:
            of_member = np.flatnonzero((self.segments["member"] == member).to_numpy(dtype=bool))
            indices = self.segments["segment"].to_numpy()[of_member]
            last_rows = of_member[indices == (indices.max(initial=-1) if segment is None else segment)]
            if not len(last_rows):
                what = f"member {member}" if segment is None else f"member {member}, segment {segment}"
                raise BadInput(f"{self.directory} has no row of {what}.")
            rows = ancestry.path_to(self._parents, int(last_rows[0]))
        return self._schedule(rows)

    # -- private -------------------------------------------------------------------------------------------------------

    @cached_property
    def _parents(self) -> ancestry.Rows:
        return ancestry.parents(self.segments)

    @cached_property
    def _best_rows(self) -> list[int]:
        """The rows of the path to the best weights; empty if they have no row."""
        for best in (self.best, best_of(self.segments, self.metric, self.mode)):
            if best is not None:
                row = ancestry.find_rows(self.segments, np.array([best.member]), np.array([best.segment]))[0]
                if row >= 0:
                    return ancestry.path_to(self._parents, int(row))
        return []

    def _complete_path(self, rows: list[int]) -> list[int]:
        """The path ``rows`` if it is complete, else the complete path to the best possible value. If there is none,
        ``rows`` as they are."""
        if self._is_complete(rows):
            return rows
        sign = 1 if self.mode == "min" else -1
        values = sign * frames.sound_values(self.segments, self.metric)
        for row in np.argsort(values, kind="stable"):
            path = ancestry.path_to(self._parents, int(row))
            if np.isfinite(values[row]) and self._is_complete(path):
                last = self.segments.iloc[int(row)]
                log.warning(
                    "the path to the best weights is not wholly in the table (rows were trained again after a crash); "
                    "instead: the path to member %d, segment %d",
                    last["member"],
                    last["segment"],
                )
                return path
        return rows

    def _is_complete(self, rows: list[int]) -> bool:
        """Whether a path begins with new weights, not with a copy whose source is missing from the table."""
        first = self.segments.iloc[rows[0]]
        copied = pd.notna(first["copied_from"]) and (first["copied_segment"] or 0) >= 0
        return bool(self._parents[rows[0]] < 0 and not copied)

    def _schedule(self, rows: list[int]) -> Schedule:
        path = self.segments.iloc[rows]
        if not self._is_complete(rows):
            raise BadInput(
                f"the path to member {path.iloc[-1]['member']}, segment {path.iloc[-1]['segment']} is not wholly in "
                "the table (rows were trained again after a crash), so its schedule cannot be told."
            )
        columns = [frames.HYPERPARAMETER + name for name in self.hyperparameters]
        values = path[columns].ffill().bfill()
        metric_values = frames.sound_values(path, self.metric).tolist()
        cells = values.astype(object).to_numpy().tolist()
        legs = []
        for member, segment, value, row in zip(path["member"], path["segment"], metric_values, cells, strict=True):
            named_cells = zip(self.hyperparameters, row, strict=True)
            legs.append(
                Leg(
                    member=int(member),
                    segment=int(segment),
                    hyperparameters={name: python_value(cell) for name, cell in named_cells if not pd.isna(cell)},
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


def _read_segments(directory: RunDirectory, experiment: Mapping[str, Any]) -> pd.DataFrame:
    """The table of segments; an empty one with the same columns if there is none yet."""
    if directory.names(layout.SEGMENTS):
        return directory.read_table(layout.SEGMENTS)
    names = experiment["experiment"].get("hyperparameters") or {}
    import pyarrow as pa

    empty: pd.DataFrame = segments_schema({name: pa.float64() for name in names}).empty_table().to_pandas()
    return empty
