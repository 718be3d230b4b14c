"""The benchmark of ensembles on one screen: tables, and what was to be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quality.judging import AGGREGATORS, CHOSEN, CLEAN, NOISE, SINGLE, noise
from quality.methods import Row
from quality.protocol import TEAM_IMPROVEMENT
from quality.statistics import against_simple, improvement, table
from quality.summary import STYLES, Goal, ends, number
from quality.teams import ALONE, TEAM

ROBUSTNESS = (*(noise(deviation) for deviation in NOISE), "shift")


def part_of(everything: pd.DataFrame, predictor: str = CHOSEN, inputs: str = CLEAN) -> pd.DataFrame:
    """What one predictor did on one kind of inputs: a row per case, method and seed."""
    return everything[(everything["predictor"] == predictor) & (everything["inputs"] == inputs)]


def analyse(everything: pd.DataFrame, rows: Mapping[str, Row]) -> pd.DataFrame:
    """A row per method, best mean rank in log-loss first: the columns of ``statistics.table`` and ``kind``;
    ``better`` and ``better_accuracy``, the probability that our ensemble is better, with ``_low`` and ``_high``;
    ``single_<column>``, ``uniform_<column>``, ``top 4_<column>``, the same of other predictors; ``<figure>_<inputs>``
    and ``single_<figure>_<inputs>`` (means over the classifications); ``used`` and ``disagreement``."""
    unranked = [name for name, row in rows.items() if row.kind == "ours" and name != TEAM]
    found = table(part_of(everything), unranked, stand_in=TEAM)
    found.insert(0, "kind", [rows[name].kind for name in found.index])
    more: dict[str, pd.Series] = {}
    for predictor in (SINGLE, *(name for name in AGGREGATORS if name != CHOSEN)):
        other = table(part_of(everything, predictor), unranked, stand_in=TEAM)
        more |= {f"{predictor}_{column}": other[column] for column in other}
    for inputs in (CLEAN, *ROBUSTNESS):
        for predictor, prefix in ((CHOSEN, ""), (SINGLE, f"{SINGLE}_")):
            means = part_of(everything, predictor, inputs).groupby("method")[["accuracy", "ece", "brier"]].mean()
            more |= {f"{prefix}{figure}_{inputs}": means[figure] for figure in means}
    means = part_of(everything).groupby("method")[["used", "disagreement"]].mean()
    found = found.join(pd.DataFrame(more)).join(means)
    for name in found.index:
        if TEAM not in found.index or name == TEAM:
            continue
        _three(found, name, "better", improvement(part_of(everything), TEAM, name))
        _three(found, name, "single_better", improvement(part_of(everything, SINGLE), TEAM, name))
        if not np.isnan(found.loc[name, "accuracy"]):
            chosen = part_of(everything)
            _three(found, name, "better_accuracy", improvement(chosen, TEAM, name, figure="accuracy"))
    return found


def _three(found: pd.DataFrame, name: str, column: str, values: tuple[float, float, float]) -> None:
    found.loc[name, [column, f"{column}_low", f"{column}_high"]] = values


def best_baseline(found: pd.DataFrame) -> str | None:
    """The baseline with the best mean rank in log-loss: none of ours."""
    names = found.index[found["kind"].isin(["simple", "peer"])]
    return str(names[0]) if len(names) else None


def cases(everything: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """A row per case: our loss, that of the best baseline over all cases (``overall``), and that of the best baseline
    of this case (``best``, by name ``which``); for both the ``deviation`` over seeds, and ``units``: how many of them
    our loss lies above (positive: lost)."""
    finals = part_of(everything)
    names = list(found.index[found["kind"].isin(["simple", "peer"])])
    means = finals.groupby(["case", "method"])["loss"].mean().unstack()
    overall = against_simple(finals, TEAM, names[0]).rename(columns={"simple": "overall"})
    which = means[names].idxmin(axis=1)
    deviations = finals.groupby(["case", "method"])["loss"].std().unstack().fillna(0.0)
    result = overall.assign(
        which=which,
        best=means[names].min(axis=1),
        best_deviation=[deviations.loc[case, name] for case, name in which.items()],
    )
    for column, deviation in (("overall", "deviation"), ("best", "best_deviation")):
        apart = result["ours"] - result[column]
        result[f"{column}_units"] = apart / result[deviation].clip(lower=1e-9)
    return result


def goals(everything: pd.DataFrame, found: pd.DataFrame) -> list[Goal]:
    """What our ensemble was to reach, and did."""
    best = best_baseline(found)
    if TEAM not in found.index or best is None:
        return []
    ranked = found[(found["kind"] != "ours") | (found.index == TEAM)]
    result = []
    for column, words in (("rank_loss", "log-loss"), ("rank_accuracy", "accuracy")):
        if ranked[column].isna().all():
            continue
        place = int((ranked[column] < ranked.loc[TEAM, column]).sum()) + 1
        first = str(ranked[column].idxmin())
        other = "" if place == 1 else f"; first is {first} ({ranked.loc[first, column]:.1f})"
        text = f"place {place} of {len(ranked)}, rank {ranked.loc[TEAM, column]:.1f}{other}"
        result.append(Goal(asked=f"ensemble {words}: first in mean rank", found=text, reached=place == 1))
    better, low = (float(found.loc[best, column]) for column in ("better", "better_low"))
    result.append(
        Goal(
            asked=f"probability of improvement >= {TEAM_IMPROVEMENT} over the best baseline, interval above 0.5",
            found=f"{better:.2f} {ends(found.loc[best], 'better', '.2f')} over {best}",
            reached=better >= TEAM_IMPROVEMENT and low > 0.5,
        )
    )
    against = cases(everything, found)
    lost = list(against.index[against["loses"]])
    result.append(
        Goal(
            asked="no case lost to that baseline by more than its deviation over seeds",
            found=f"{len(lost)} of {len(against)} lost{': ' if lost else ''}{', '.join(lost)}",
            reached=not lost,
        )
    )
    if ALONE in found.index:
        row = found.loc[ALONE]
        result.append(
            Goal(
                asked="the best single member at least level with the single objective's (interval reaches 0.5)",
                found=f"better with probability {row['single_better']:.2f} {ends(row, 'single_better', '.2f')}",
                reached=bool(row["single_better_high"] >= 0.5),
            )
        )
    return result


def show(console: Console, title: str, found: pd.DataFrame) -> None:
    """Three tables: ensembles, best single members, calibration and robustness."""
    ours = TEAM in found.index
    drawn = _table(
        f"{title}: ensembles ({CHOSEN})", ["log-loss\nrank", "\n", "\nln(+0.02)", "accuracy\nrank", "\nmean"]
    )
    for header in [*(["ours\nbetter", "\n", "ours more\naccurate"] if ours else []), "uniform\nrank", "top 4\nrank"]:
        drawn.add_column(header, justify="right" if header.strip() else "left", no_wrap=True)
    for name, row in found.iterrows():
        cells = [f"{row['rank_loss']:.1f}", ends(row, "rank_loss", ".1f"), f"{row['log_loss']:.3f}"]
        cells += [number(row["rank_accuracy"], ".1f"), number(row["accuracy"], ".3f")]
        if ours:
            cells += [number(row["better"], ".2f"), ends(row, "better", ".2f")]
            cells += [number(row.get("better_accuracy", np.nan), ".2f")]
        cells += [f"{row['uniform_rank_loss']:.1f}", f"{row['top 4_rank_loss']:.1f}"]
        _add(drawn, name, row, cells)
    console.print(drawn)

    headers = ["log-loss\nrank", "\n", "\nln(+0.02)", "accuracy\nrank", "\nmean"]
    headers += [*(["ours\nbetter", "\n"] if ours else []), "ensemble's\ngain", "members\nin it"]
    drawn = _table("Best single member, and what its population's ensemble adds", headers)
    for name, row in found.sort_values("single_rank_loss").iterrows():
        cells = [f"{row['single_rank_loss']:.1f}", ends(row, "single_rank_loss", ".1f")]
        cells += [f"{row['single_log_loss']:.3f}", number(row["single_rank_accuracy"], ".1f")]
        cells += [number(row["single_accuracy"], ".3f")]
        if ours:
            cells += [number(row["single_better"], ".2f"), ends(row, "single_better", ".2f")]
        gain = row["single_log_loss"] - row["log_loss"]
        _add(drawn, name, row, [*cells, f"{gain:+.3f}", f"{row['used']:.1f}"])
    console.print(drawn)

    if found[f"accuracy_{CLEAN}"].isna().all():
        return
    drawn = _table("Calibration, and accuracy under disturbed inputs: single / ensemble", ["ECE", "Brier", *ROBUSTNESS])
    for name, row in found.iterrows():
        figures = [f"ece_{CLEAN}", f"brier_{CLEAN}", *(f"accuracy_{inputs}" for inputs in ROBUSTNESS)]
        _add(drawn, name, row, [f"{row[f'{SINGLE}_{figure}']:.3f} / {row[figure]:.3f}" for figure in figures])
    console.print(drawn)


def show_cases(console: Console, everything: pd.DataFrame, found: pd.DataFrame) -> None:
    """Case by case, ours against the best baselines, in units of their deviations."""
    best = best_baseline(found)
    if TEAM not in found.index or best is None:
        return
    title = "Test loss of the ensembles; apart: ours less theirs in their deviations (above 1: lost)"
    drawn = _table(title, [TEAM, best, "apart", "best baseline of the case", "apart"], first="case")
    for case, row in cases(everything, found).iterrows():
        cells = [f"{row['ours']:.3f}", f"{row['overall']:.3f} ±{row['deviation']:.3f}", f"{row['overall_units']:+.1f}"]
        cells += [f"{row['which']}: {row['best']:.3f} ±{row['best_deviation']:.3f}", f"{row['best_units']:+.1f}"]
        drawn.add_row(Text(str(case)), *(Text(cell) for cell in cells), style="red" if row["loses"] else "")
    console.print(drawn)


def _table(title: str, headers: Sequence[str], *, first: str = "method") -> Table:
    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    drawn.add_column(first, no_wrap=True)
    for header in headers:
        drawn.add_column(header, justify="right" if header.strip() else "left", no_wrap=True)
    return drawn


def _add(drawn: Table, name: object, row: pd.Series, cells: Sequence[str]) -> None:
    style = "bold green" if name == TEAM else STYLES[row["kind"]]
    drawn.add_row(Text(str(name)), *(Text(cell) for cell in cells), style=style)
