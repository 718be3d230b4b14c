"""The benchmark's result on one screen: a table each for fresh and seen tasks, and what was to be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quality.methods import Row
from quality.protocol import BUDGET, IMPROVEMENT, JUDGED_AGAINST, MEMBERS, RANKED, SIMPLE
from quality.statistics import Curves, against_simple, budget_to_match, improvement, table

STYLES = {"simple": "", "peer": "", "structure": "dim", "ours": "bold"}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One thing that was to be reached: ``asked`` and ``found`` in words."""

    asked: str
    found: str
    reached: bool


def analyse(finals: pd.DataFrame, curves: Curves, rows: Mapping[str, Row]) -> pd.DataFrame:
    """``statistics.table``, with what follows from the ranked row where it was run: ``better`` (its probability of
    improvement over each method, with its interval) and ``budget`` (the share that it needs to match)."""
    unranked = [name for name, row in rows.items() if row.kind == "ours" and name != RANKED]
    found = table(finals, unranked, stand_in=RANKED)
    found.insert(0, "kind", [rows[name].kind for name in found.index])
    if RANKED not in found.index:
        return found
    for name in found.index:
        if name == RANKED:
            continue
        better = improvement(finals, RANKED, name)
        for column, value in zip(("better", "better_low", "better_high"), better, strict=True):
            found.loc[name, column] = value
        found.loc[name, "budget"] = budget_to_match(curves, RANKED, name)
    return found


def goals(found: pd.DataFrame, finals: pd.DataFrame, curves: Curves, *, members: int) -> list[Goal]:
    """What the ranked row was to reach, and did: from the table, of the tasks by which it is judged."""
    if RANKED not in found.index:
        return []
    ranked = found[(found["kind"] != "ours") | (found.index == RANKED)]
    result = []
    for figure, words in (("rank_loss", "test log-loss"), ("rank_accuracy", "accuracy")):
        if ranked[figure].isna().all():
            continue
        place = int((ranked[figure] < ranked.loc[RANKED, figure]).sum()) + 1
        first = str(ranked[figure].idxmin())
        other = "" if place == 1 else f"; first is {first} ({ranked.loc[first, figure]:.1f})"
        result.append(
            Goal(
                asked=f"first in mean rank of all methods, {words}",
                found=f"place {place} of {len(ranked)}, rank {ranked.loc[RANKED, figure]:.1f}{other}",
                reached=place == 1,
            )
        )
    peers = found[found["kind"].isin(["peer", "simple"])]
    if len(peers):
        judged = peers if members == MEMBERS else peers.head(JUDGED_AGAINST)
        worst = str(judged["better"].idxmin())
        enough = (judged["better"] >= IMPROVEMENT) & (judged["better_low"] > 0.5)
        against = "each peer" if members == MEMBERS else f"each of the best {JUDGED_AGAINST} peers"
        result.append(
            Goal(
                asked=f"probability of improvement >= {IMPROVEMENT} over {against}, interval above 0.5",
                found=f"holds for {enough.sum()} of {len(judged)}; least over {worst}: {_better(judged.loc[worst])}",
                reached=bool(enough.all()),
            )
        )
        best = str(peers.index[0])
        budget = float(peers.loc[best, "budget"])
        hardest = budget_to_match(curves, RANKED, peers=list(peers.index))
        result.append(
            Goal(
                asked=f"the best peer's final score with at most {BUDGET:.0%} of the budget, median over cases",
                found=f"{_share(budget)} for {best}; {_share(hardest)} for the best of each case",
                reached=budget <= BUDGET,
            )
        )
    if SIMPLE in found.index:
        cases = against_simple(finals, RANKED, SIMPLE)
        lost = list(cases.index[cases["loses"]])
        result.append(
            Goal(
                asked=f"no case lost to {SIMPLE} by more than its deviation over seeds",
                found=f"{len(lost)} of {len(cases)} lost{': ' if lost else ''}{', '.join(lost)}",
                reached=not lost,
            )
        )
    return result


def show(console: Console, title: str, found: pd.DataFrame) -> None:
    """The table."""
    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    drawn.add_column("method", no_wrap=True)
    ours = RANKED in found.index
    headers = ["log-loss\nrank", "\n", "\nIQM", "\nln(+0.02)", "accuracy\nrank", "\nmean"]
    headers += ["ours\nbetter", "\n", "budget\nto match"] if ours else []
    for header in headers:
        drawn.add_column(header, justify="right" if header.strip() else "left", no_wrap=True)
    for name, row in found.iterrows():
        cells = [
            f"{row['rank_loss']:.1f}",
            ends(row, "rank_loss", ".1f"),
            number(row.get("iqm", np.nan), ".2f"),
            f"{row['log_loss']:.3f}",
            number(row["rank_accuracy"], ".1f"),
            number(row["accuracy"], ".3f"),
        ]
        if ours and name != RANKED:
            cells += [number(row["better"], ".2f"), ends(row, "better", ".2f"), _share(row["budget"])]
        style = "bold green" if name == RANKED else STYLES[row["kind"]]
        drawn.add_row(Text(str(name)), *(Text(cell) for cell in cells), style=style)
    console.print(drawn)


def show_goals(console: Console, reached: Sequence[Goal]) -> None:
    if not reached:
        return
    drawn = Table(title="What was to be reached", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for header in ("", "asked", "found"):
        drawn.add_column(header)
    for goal in reached:
        drawn.add_row(Text("yes" if goal.reached else "no", "green" if goal.reached else "red"), goal.asked, goal.found)
    console.print(drawn)


def show_cases(console: Console, finals: pd.DataFrame, found: pd.DataFrame) -> None:
    """Mean test loss by case: ours, the simple baseline, and the best peers."""
    peers = [str(name) for name in found.index[found["kind"] == "peer"][:JUDGED_AGAINST]]
    chosen = [name for name in (RANKED, SIMPLE, *peers) if name in found.index]
    means = finals.groupby(["case", "method"])["loss"].mean().unstack()[chosen]
    deviations = finals.groupby(["case", "method"])["loss"].std().unstack()[chosen]
    drawn = Table(
        title="Test loss, mean and deviation over seeds",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    drawn.add_column("case", no_wrap=True)
    for name in chosen:
        drawn.add_column(name, justify="right")
    for case, row in means.iterrows():
        cells = [
            Text(f"{row[name]:.3f} ±{deviations.loc[case, name]:.3f}", "bold" if row[name] == row.min() else "")
            for name in chosen
        ]
        drawn.add_row(str(case), *cells)
    console.print(drawn)


def ends(row: pd.Series, name: str, form: str) -> str:
    low, high = row.get(f"{name}_low", np.nan), row.get(f"{name}_high", np.nan)
    return "" if np.isnan(low) else f"[{low:{form}}, {high:{form}}]"


def _better(row: pd.Series) -> str:
    return f"{row['better']:.2f} {ends(row, 'better', '.2f')}"


def number(value: float, form: str) -> str:
    return "" if np.isnan(value) else f"{value:{form}}"


def _share(value: float) -> str:
    return "" if np.isnan(value) else "never" if np.isinf(value) else f"{value:.2f}"
