"""The parts of the page: tables of plain cells, and figures as SVG with captions that explain them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from raytune_rl.analysis import captions, plots
from raytune_rl.analysis.compare import labels
from raytune_rl.analysis.frames import rank_members
from raytune_rl.analysis.influence import saw_and_did
from raytune_rl.analysis.run import Run
from raytune_rl.analysis.svg import inline_svg
from raytune_rl.errors import BadInput
from raytune_rl.rundir.summary import instead_of, origin, refit_cost
from raytune_rl.texts import count, duration, number

MEMBERS, COPIES, PATH = 64, 40, 60
"""The largest number of rows that the tables of members, copies and the best path show."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its cells as text.

    Attributes:
        head: the columns' titles.
        rows: the cells.
        numeric: for each column, whether it is aligned to the right.
        strong: index of the row to emphasise.
        more: a note on rows that were left out.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    strong: int | None = None
    more: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with its caption."""

    title: str
    svg: Markup
    caption: str


def facts(run: Run) -> list[tuple[str, str]]:
    """The line under the verdict: what was run, on which machine, and how long it took."""
    hardware = run.experiment.get("hardware") or {}
    timing = (run.summary or {}).get("timing") or {}
    copies = run.lineage
    copies_between_members = int((copies["receiver"] != copies["donor"]).sum())
    population = int(run.segments["member"].nunique())
    best = (run.summary or {}).get("best") or {}
    refit, seconds = refit_cost(run.summary)
    alternative = instead_of(best)
    delivered = "" if alternative is None else f"{origin(best)} ({alternative[0]} {number(alternative[1])})"
    entries = [
        ("agent", run.agent),
        ("delivered", delivered),
        ("population", count(population, "members")),
        ("trained", count(len(run.segments), "segments")),
        ("refit", f"{count(refit, 'segments')} in {duration(seconds)}" if refit else ""),
        ("copies", f"{copies_between_members:,}"),
        ("failures", f"{int((run.segments['status'] != 'ok').sum()):,}"),
        ("wall time", duration(timing.get("wall_s"))),
        ("training time", duration(float(run.segments["seconds"].sum()))),
        ("seed", str(run.seed)),
        ("machine", ", ".join(filter(None, [hardware.get("cpu"), _cores(hardware), *_gpus(hardware)]))),
    ]
    return [(name, value) for name, value in entries if value not in ("", "-")]


def results(run: Run) -> Table | None:
    """The run's result, next to those of its ensemble and its comparison if there are any."""
    best = run.best
    if best is None:
        return None
    comparison = (run.summary or {}).get("comparison")
    ensemble = (run.summary or {}).get("ensemble")
    metrics = [run.metric, *(name for name in best.metrics if name != run.metric)]
    metrics += [name for name in (ensemble or {}).get("metrics", {}) if name not in metrics]
    head = [f"best by {run.metric}", f"{run.name} ({run.agent})"]
    rows = [[name, number(best.metrics.get(name))] for name in metrics]
    segments, seconds = refit_cost(run.summary)
    rows += [
        ["segments", f"{len(run.segments) + segments:,}"],
        ["training time", duration(float(run.segments["seconds"].sum()) + seconds)],
    ]
    if ensemble is not None:
        head.append(f"its ensemble of {len(ensemble['members'])}")
        for row, cell in zip(rows, [*(number(ensemble["metrics"].get(name)) for name in metrics), "", ""], strict=True):
            row.append(cell)
    if comparison is not None:
        head.append(str(comparison["name"]))
        cells = [number((comparison.get("metrics") or {}).get(name)) for name in metrics]
        cells += [f"{comparison['segments']:,}", duration(comparison["train_s"])]
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    numeric = (False, *[True] * (len(head) - 1))
    return Table(head=tuple(head), rows=tuple(map(tuple, rows)), numeric=numeric, strong=0)


def figures(run: Run) -> list[Drawing]:
    """The plots of one run. If there is nothing to draw, the caption stands alone and says so."""
    pairs = saw_and_did(run.decisions)
    any_gain = run.lineage["gain"][run.lineage["receiver"] != run.lineage["donor"]].notna().any()
    title = "What the agent did against what it saw"
    drawings = [
        _drawing("anytime", "Best so far", captions.anytime(run), plots.anytime, run, when=run.best is not None),
        _drawing("lineage", "Who copied whom", captions.lineage(run), plots.lineage, run),
        _drawing("gains", "What copies gained", captions.gains(run), plots.gains, run, when=bool(any_gain)),
        _drawing("saw", title, captions.saw(pairs), plots.influences, run, None, pairs, when=not pairs.empty),
    ]
    if not pairs.empty:
        relation = captions.strongest(pairs)
        drawings.append(_drawing("strong", "The strongest relation", relation, plots.strongest, run, None, pairs))
    timed = bool(run.segments["seconds"].sum() > 0)
    return [
        *drawings,
        _drawing("time", "Where the time went", captions.time(run), plots.time, run, when=timed),
        _drawing("seconds", "Time per segment", captions.segment_seconds(run), plots.segment_seconds, run, when=timed),
    ]


def _drawing(key: str, title: str, caption: str, plot: Callable[..., Figure], *args: Any, when: bool = True) -> Drawing:
    """The figure ``plot(*args)`` with its caption; the caption alone unless ``when``."""
    svg = inline_svg(plot(*args), key=key, label=f"{title}: {caption}") if when else Markup()
    return Drawing(title=title, svg=svg, caption=caption)


def schedules(run: Run) -> list[Drawing]:
    """A panel per hyperparameter."""
    return [
        _drawing(f"s{index}", name, captions.schedule(run, name), plots.schedule, run, name)
        for index, name in enumerate(run.hyperparameters)
    ]


def path(run: Run) -> Table | None:
    """The schedule of the best weights, segment by segment."""
    try:
        schedule = run.schedule()
    except BadInput:
        return None
    names = run.hyperparameters
    rows = [
        (
            str(step),
            str(leg.member),
            str(leg.segment),
            *(number(leg.hyperparameters.get(n)) for n in names),
            number(leg.value),
        )
        for step, leg in enumerate(schedule.legs)
    ]
    return _table(("step", "member", "segment", *names, run.metric), rows, limit=PATH, what="segments", end=True)


def schedule_link(run: Run) -> str | None:
    """A ``data:`` link that saves the schedule as JSON; None if there is no complete one."""
    try:
        text = run.schedule().to_json()
    except BadInput:
        return None
    return "data:application/json;base64," + base64.b64encode(text.encode()).decode()


def copies(run: Run) -> Table | None:
    """The copies that mattered: those on the path of the best weights first, then the largest gains."""
    table = run.lineage
    if table.empty:
        return None
    order = table.assign(size=table["gain"].abs()).sort_values(["on_best_path", "size"], ascending=False, kind="stable")
    shown = order.head(COPIES).sort_values(["segment", "receiver"])
    rows = [
        (
            str(row.segment),
            str(row.receiver),
            str(row.donor),
            number(_whole(row.donor_segment)),
            str(row.kind).replace("_", " "),
            number(row.value_before),
            number(row.value_donor),
            number(row.value_after),
            number(row.value_later),
            "yes" if row.on_best_path else "",
        )
        for row in shown.itertuples()
    ]
    head = (
        "segment",
        "into",
        "from",
        "after its segment",
        "kind",
        "before",
        "donor",
        "after",
        "later",
        "led to the best",
    )
    left_out = len(table) - len(rows)
    more = f"{count(left_out, 'more copies', 'more copy')} with smaller changes." if left_out else ""
    numeric = tuple(title not in ("kind", "led to the best") for title in head)
    return Table(head=head, rows=tuple(rows), numeric=numeric, more=more)


def members(run: Run) -> Table | None:
    """All members, the best first."""
    table = rank_members(run.members, run.mode)
    if table.empty:
        return None
    rows = [
        (
            str(member),
            number(row["best"]),
            number(_whole(row["best_segment"])),
            number(row["first"]),
            number(row["last"]),
            str(row["segments"]),
            str(row["copies_taken"]),
            str(row["copies_given"]),
            str(row["rollbacks"]),
            str(row["failures"]),
            duration(float(row["seconds"])),
            *(f"{number(_cell(row['start/' + n]))} → {number(_cell(row['end/' + n]))}" for n in run.hyperparameters),
        )
        for member, row in table.astype(object).iterrows()
    ]
    head = (
        "member",
        "best",
        "in segment",
        "first",
        "last",
        "segments",
        "copies taken",
        "given",
        "rollbacks",
        "failures",
    )
    return _table((*head, "training", *run.hyperparameters), rows, limit=MEMBERS, what="members")


def space(run: Run) -> Table | None:
    """The hyperparameters with their roles, scales and ranges."""
    if not run.scales:
        return None
    rows = []
    for name, scale in run.scales.items():
        known = scale.lower is not None and scale.upper is not None
        values = f"{number(scale.lower)} to {number(scale.upper)}" if known else ", ".join(scale.categories) or "-"
        kind = "choice" if scale.categories else "log" if scale.log else "linear"
        rows.append((name, scale.role or "-", kind, values))
    return Table(head=("hyperparameter", "role", "scale", "range"), rows=tuple(rows), numeric=(False,) * 4)


def configuration(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything in ``experiment.json``, by group."""
    fields = {name: content for name, content in run.fields.items() if name != "hyperparameters" or not run.scales}
    groups: list[tuple[str, Mapping[str, Any]]] = [("Experiment", fields)]
    groups += [
        (name.capitalize(), run.experiment[name]) for name in ("versions", "hardware") if run.experiment.get(name)
    ]
    return [
        (title, [("seed", str(run.seed))] * (title == "Experiment") + list(_flat(content))) for title, content in groups
    ]


def compared(table: pd.DataFrame, metric: str) -> Table:
    """``compare``'s table as the page shows it."""
    tests = [column for column in table.columns if column.startswith("test/")]
    agents_in_labels = all(agent in label for label, agent in zip(table.index, table["agent"], strict=True))
    about = ["seed"] if agents_in_labels else ["agent", "seed"]
    head = ["run", *about, metric, "behind", *(t.replace("/", " ") for t in tests)]
    head += ["segments", "training time", "wall time", "copies", "failures", "finished"]
    rows = []
    for label, row in table.astype(object).iterrows():
        numbers = [number(_cell(row[name])) for name in ("best", "behind", *tests)]
        spent = [f"{row['segments']:,}", duration(row["train_s"]), duration(_cell(row["wall_s"]))]
        counts = [f"{row['copies']:,}", f"{row['failures']:,}", "yes" if row["finished"] else "no"]
        rows.append((str(label), *(str(row[name]) for name in about), *numbers, *spent, *counts))
    numeric = tuple(title not in ("run", "agent", "finished") for title in head)
    return Table(head=tuple(head), rows=tuple(rows), numeric=numeric, strong=0)


def compared_figures(runs: Sequence[Run]) -> list[Drawing]:
    """The anytime curves of several runs, and the lineage of each."""
    by_segments = "Against the segments that all members trained."
    drawings = [
        _drawing("segments", "Best so far, by segments", by_segments, plots.anytime, runs),
        _drawing("seconds", "Best so far, by training time", captions.by_seconds(runs), _by_seconds, runs),
    ]
    for index, (run, name) in enumerate(zip(runs, labels(runs), strict=True)):
        drawings.append(_drawing(f"l{index}", f"{name}: who copied whom", captions.lineage(run), plots.lineage, run))
    return drawings


def _by_seconds(runs: Sequence[Run]) -> Figure:
    return plots.anytime(runs, by="seconds")


def compared_schedules(runs: Sequence[Run]) -> list[Drawing]:
    """The schedules of the best weights, a panel per hyperparameter."""
    labelled = {label: run for label, run in zip(labels(runs), runs, strict=True) if not run.best_path.empty}
    hyperparameters = dict.fromkeys(name for run in runs for name in run.hyperparameters)
    caption = "Values along the path of each run's best weights."
    drawings = []
    for index, name in enumerate(hyperparameters):
        drawn = {label: run for label, run in labelled.items() if name in run.hyperparameters}
        if drawn:
            args = (list(drawn.values()), list(drawn), name)
            drawings.append(_drawing(f"s{index}", name, caption, plots.best_schedules, *args))
    return drawings


def differences(runs: Sequence[Run]) -> Table:
    """The experiments' fields and the versions in which the runs differ."""
    contents = [
        {"seed": str(run.seed), **dict(_flat({**run.fields, "versions": run.experiment.get("versions") or {}}))}
        for run in runs
    ]
    fields = dict.fromkeys(name for content in contents for name in content)
    differing = [name for name in fields if len({content.get(name) for content in contents}) > 1]
    rows = [(name, *(content.get(name, "-") for content in contents)) for name in differing]
    same = count(len(fields) - len(differing), "fields are", "field is") + " the same."
    return Table(head=("field", *labels(runs)), rows=tuple(rows), numeric=(False,) * (len(runs) + 1), more=same)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], *, limit: int, what: str, end: bool = False) -> Table:
    """A table of right-aligned numbers with at most ``limit`` rows: the first ones, or with ``end`` the last ones."""
    left_out = len(rows) - limit
    shown = rows[-limit:] if end else rows[:limit]
    more = f"{count(left_out, what)} {'before these' if end else 'more'} in the run's tables." if left_out > 0 else ""
    return Table(head=head, rows=tuple(shown), numeric=(True,) * len(head), more=more)


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested JSON as pairs of dotted path and text; a list of plain values is one leaf."""
    if isinstance(content, Mapping) and content:
        for name, item in content.items():
            yield from _flat(item, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(content, list) and any(isinstance(item, Mapping | list) for item in content):
        for index, item in enumerate(content):
            yield from _flat(item, f"{prefix}[{index}]")
    else:
        yield prefix, content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _cell(value: Any) -> Any:
    return None if pd.isna(value) else value


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _cores(hardware: Mapping[str, Any]) -> str:
    return count(hardware["cores"], "cores") if hardware.get("cores") else ""


def _gpus(hardware: Mapping[str, Any]) -> list[str]:
    return [str(gpu.get("name", "GPU")) for gpu in hardware.get("gpus") or [] if isinstance(gpu, Mapping)]
