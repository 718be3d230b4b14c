"""The live screen and the summary at the end of a run, as rich renderables. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raytune_rl.progress.board import Plan, Row, View, action_text, clock_text, values_text
from raytune_rl.progress.columns import Column, table
from raytune_rl.records import Status
from raytune_rl.rundir.summary import cost, instead_of, origin, refit_cost
from raytune_rl.texts import count, duration, gap, number

MEMBER_ROWS = 20
BEST_ROWS = 10
"""Of a population with more than ``MEMBER_ROWS`` members, the best ``BEST_ROWS`` are shown, and a line on the rest."""
NAME_WIDTH = 30
"""Largest width of the names in the comparison, so that there is room for the numbers."""
_OTHER_LINES = 8
"""Number of lines of the live screen that do not show members."""

_STYLE: Mapping[Status, str] = {"diverged": "yellow", "failed": "red", "hung": "red"}


def live_screen(view: View, width: int, height: int = 60) -> RenderableType:
    """The whole live display, for a terminal of ``width`` columns and ``height`` lines."""
    if not view.rows:
        return Group(_header(view, width), Text("waiting for the first reports", style="dim"))
    return Group(_header(view, width), _best_line(view), _members(view, width, height), _agent_line(view))


def _header(view: View, width: int) -> RenderableType:
    plan = view.plan
    segment = f"segment {view.segment}/{plan.segments}" if plan.segments else f"segment {view.segment}"
    times = f"{clock_text(view.elapsed)} elapsed, {clock_text(view.eta)} left"
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    bar = ProgressBar(total=1.0, completed=view.share or 0.0, pulse=view.share is None)
    line.add_row(Text(plan.name[: max(8, width // 5)], style="bold"), bar, Text(f"{segment}  {times}"))
    return line


def _best_line(view: View) -> RenderableType:
    if view.incumbent is None:
        return Text(f"no {view.plan.metric} yet", style="dim")
    best = view.incumbent
    line = Text.assemble("best ", view.plan.metric, " ", (number(best.value), "bold green"))
    line.append(f"  member {best.member}, segment {best.segment}  ", style="dim")
    line.append(values_text(best.hyperparameters), style="dim")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _agent_line(view: View) -> RenderableType:
    parts = [
        f"{view.plan.algorithm or 'agent'} version {view.version}",
        f"{view.transitions} decisions rewarded",
        count(view.copies, "copies"),
        count(view.failures, "failures"),
        count(view.rollbacks, "rollbacks"),
        f"{view.rate:.1f} reports/s",
    ]
    return Text(" | ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")


def _members(view: View, width: int, height: int) -> RenderableType:
    plan = view.plan
    room = max(1, height - _OTHER_LINES)
    crowded = len(view.rows) > min(MEMBER_ROWS, room)
    shown = view.ranked()[: min(BEST_ROWS, room)] if crowded else list(view.rows)
    names = plan.hyperparameters[: max(0, (width - 50) // 10)]
    cells = [[_plain(text) for text in (row.report.member, row.report.segment)] for row in shown]
    for line, row in zip(cells, shown, strict=True):
        line += [_now(view, row), _plain(number(row.best))]
        line += [_plain(number(row.report.hyperparameters.get(name))) for name in names]
        line.append((action_text(row, plan), "dim" if row.over else ""))
    if crowded:
        shown_members = {row.report.member for row in shown}
        rest = [row for row in view.rows if row.report.member not in shown_members]
        text = f"median of {len(rest)} more; {sum(row.over for row in rest)} ended"
        cells.append([(t, "dim") for t in ("...", "", number(view.median(rest)), "", *[""] * len(names), text)])
    member, segment, now, best, *values, change = zip(*cells, strict=True)
    return table(
        [
            Column(heading="member", cells=member),
            Column(heading="seg", cells=segment),
            Column(heading="now", cells=now, narrowest=8),
            Column(heading="own best", cells=best),
            *(Column(heading=_heading(n), cells=c, narrowest=7) for n, c in zip(names, values, strict=True)),
            Column(heading="last change", cells=change, left=True),
        ],
        width,
    )


def _plain(text: object) -> tuple[str, str]:
    return str(text), ""


def _now(view: View, row: Row) -> tuple[str, str]:
    """The member's current value with its style, or its status if the segment went wrong. Highlighted if the member's
    best is the best of all."""
    if row.report.status != "ok":
        return row.report.status, _STYLE[row.report.status]
    leads = view.incumbent is not None and row.best == view.incumbent.value
    return number(view.value(row)), "bold green" if leads else ""


def _heading(name: str) -> str:
    """A name such as ``weight_decay`` in two lines, so that its column can be narrow."""
    first, underscore, rest = name.partition("_")
    return f"{first}\n{rest}" if underscore and first else name


def progress_line(view: View) -> str:
    """The live screen's numbers in one line for a log, as ``key=value`` after the word ``progress``."""
    plan = view.plan
    total = plan.members * plan.segments if plan.segments else None
    fields: dict[str, Any] = {
        "segment": f"{view.segment}/{plan.segments}" if plan.segments else view.segment,
        "reports": f"{view.reports}/{total}" if total else view.reports,
        f"best_{plan.metric}": number(view.incumbent.value) if view.incumbent else "-",
        "best_member": view.incumbent.member if view.incumbent else "-",
        "elapsed": clock_text(view.elapsed),
        "eta": clock_text(view.eta),
        "rate": f"{view.rate:.1f}/s",
        "copies": view.copies,
        "failures": view.failures,
        "rollbacks": view.rollbacks,
        "agent_version": view.version,
    }
    return "progress " + " ".join(f"{key}={value}" for key, value in fields.items())


def final_screen(plan: Plan, summary: Mapping[str, Any]) -> RenderableType:
    """The end of a run. ``summary`` is the content of ``summary.json``."""
    parts: list[RenderableType] = [Text(), verdict(plan, summary), Text()]
    if summary.get("best"):
        parts += [_best_block(summary["best"]), Text()]
    if summary.get("best") and (summary.get("comparison") or summary.get("ensemble")):
        parts += [_comparison(plan, summary), Text()]
    return Group(*parts, _facts(plan, summary))


def verdict(plan: Plan, summary: Mapping[str, Any]) -> Text:
    """The result of a run in one sentence."""
    best, other = summary.get("best"), summary.get("comparison")
    text = Text(plan.name or "This run", style="bold")
    if not best:
        return text.append(f": no member reached a valid {plan.metric}; run.log says why.", style="red")
    ours, owner = best["value"], ""
    if other and other.get("of") == "ensemble":
        ours, owner = (summary.get("ensemble") or {}).get("value"), " of the ensemble"
    if ours is None or not other:
        text.append(f": {plan.metric} {number(best['value'])}")
        return text.append(f", reached by {origin(best)}.")
    name, ours, theirs, better = _judged(plan, summary, ours)
    text.append(f": {name}{owner} {number(ours)}")
    if theirs is None or math.isnan(theirs):  # null in the file, NaN before it is written
        return text.append(f"; {other['name']} with the same budget reached no finite {plan.metric}.", style="green")
    against = f"{other['name']} with the same budget ({number(theirs)})"
    if better is None:
        return text.append(f", the same as {against}.")
    distance = gap(ours, theirs, plan.mode)
    return text.append(f", {distance} than {against}.", style="green" if better else "yellow")


def _judged(plan: Plan, summary: Mapping[str, Any], ours: float) -> tuple[str, float, float, bool | None]:
    """The values that the verdict compares: name of the metric, our value, the other's, and whether ours is better.

    They are those on test data if both have been tested, because both sides were chosen by their validation values,
    which are too good for that reason."""
    other = summary["comparison"]
    our_metrics = (summary["ensemble"] if other.get("of") == "ensemble" else summary["best"])["metrics"]
    test_metric = f"test_{plan.metric.removeprefix('validation_')}"
    both_tested = test_metric in our_metrics and test_metric in other["metrics"]
    if both_tested and other["better"] is not None and ours != other["value"]:
        lower_wins = other["better"] == (ours < other["value"])
        our_test, other_test = our_metrics[test_metric], other["metrics"][test_metric]
        better = None if our_test == other_test else (our_test < other_test) == lower_wins
        return test_metric, our_test, other_test, better
    return plan.metric, ours, other["value"], other["better"]


def _best_block(best: Mapping[str, Any]) -> RenderableType:
    """Hyperparameters and metrics of the best, side by side."""
    metrics = dict(best["metrics"])
    tests = {name: value for name, value in metrics.items() if name.startswith("test")}
    not_tests = {name: value for name, value in metrics.items() if name not in tests}
    grid = Table.grid(padding=(0, 6, 0, 0))
    grid.add_row(_pairs("Hyperparameters", best["hyperparameters"]), _pairs("Metrics", {**not_tests, **tests}))
    title = Text(f"Best: {origin(best)}", style="bold")
    alternative = instead_of(best)
    if alternative is not None:
        title.append(f" ({alternative[0]} {number(alternative[1])})", style="dim")
    return Group(title, grid)


def _pairs(title: str, values: Mapping[str, Any]) -> RenderableType:
    table = Table(title=None, box=None, show_header=True, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(f"  {title}")
    table.add_column("", justify="right")
    for name, value in values.items():
        table.add_row(Text(f"  {name}"), Text(number(value)))
    return table


def _comparison(plan: Plan, summary: Mapping[str, Any]) -> RenderableType:
    """A table with a row each for the best model, the ensemble, and what the run was compared with."""
    best, ensemble, other = summary["best"], summary.get("ensemble"), summary.get("comparison")
    tests = [name for name in best["metrics"] if name.startswith("test") and name in (other or best)["metrics"]][:2]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Same budget" if other else "", no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH)
    for name in (plan.metric, *tests):
        table.add_column(Text(_heading(name)), justify="right")
    table.add_column("segments", justify="right")
    table.add_column("training", justify="right")
    name = f"raytune_rl ({plan.algorithm})" if plan.algorithm else "raytune_rl"
    segments, seconds = cost(summary)
    spent = (str(segments), duration(seconds))
    table.add_row(Text(name), *_scores(best, tests), *spent, style="bold")
    if ensemble:
        # no segments and time of its own: its members were trained in those of the row above
        table.add_row(Text(f"ensemble of {len(ensemble['members'])}"), *_scores(ensemble, tests), style="bold")
    if other:
        spent = (str(other["segments"]), duration(other["train_s"]))
        table.add_row(Text(other["name"]), *_scores(other, tests), *spent)
        if other["ratio"] is not None:
            pairs = [(best["metrics"][name], other["metrics"][name]) for name in tests]
            ratios = [
                f"{ours / theirs:.3g}" if theirs else "" for ours, theirs in pairs if other.get("of") != "ensemble"
            ]
            table.add_row("ratio", f"{other['ratio']:.3g}", *ratios, style="dim")
    return table


def _scores(judged: Mapping[str, Any], tests: Sequence[str]) -> list[str]:
    return [number(value) for value in (judged["value"], *(judged["metrics"].get(name) for name in tests))]


def _facts(plan: Plan, summary: Mapping[str, Any]) -> RenderableType:
    timing, counts, agent = summary["timing"], summary["counts"], summary["agent"]
    time = f"{duration(timing['wall_s'])} for {duration(timing['train_s'])} of training"
    if timing["overhead_ratio"] is not None:
        time += f", {timing['overhead_ratio']:.2f} times the ideal {duration(timing['ideal_s'])}"
    if timing["decision_ms_p50"] is not None:
        time += f"; decisions {timing['decision_ms_p50']:.1f} ms (p99 {timing['decision_ms_p99']:.1f})"
    kinds = ("members", "segments", "copies", "failures", "restarts", "rollbacks")
    counted = ", ".join(count(counts[key], key) for key in kinds if key in counts)  # older runs have no rollbacks
    refit = refit_cost(summary)[0]
    if refit:
        counted += f"; {count(refit, 'segments')} of the refit"
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    facts = {
        "Time": time,
        "Counts": counted,
        "Agent": f"{agent['algorithm']}, {count(agent['transitions'], 'transitions')}",
        "Run": plan.directory,
    }
    if summary.get("best") and plan.loadable:
        which = ", ensemble=True" if _ensemble_leads(plan, summary) else ""
        network = f", network={plan.network}" if plan.network else ""
        facts["Load"] = f'model = raytune_rl.load("{plan.directory}"{which}{network})'
    elif summary.get("best") and summary["best"].get("path"):
        facts["Best"] = f"{plan.directory.rstrip('/')}/{summary['best']['path']}"
    for name, fact in facts.items():
        # Text, because rich would take square brackets in a plain string for markup
        grid.add_row(name, Text(fact, overflow="fold"))
    return grid


def _ensemble_leads(plan: Plan, summary: Mapping[str, Any]) -> bool:
    """Whether an ensemble of several members is better than the single model by the experiment's metric on validation.
    Always False after a refit: its validation value is of rows that it has not seen, while the ensemble was chosen by
    them, so the two cannot be compared."""
    ensemble = summary.get("ensemble")
    if not ensemble or len(ensemble["members"]) < 2 or summary["best"].get("refit", {}).get("copies"):
        return False
    together, alone = summary["ensemble"]["value"], summary["best"]["value"]
    return bool(together < alone if plan.mode == "min" else together > alone)
