"""The documented table of observation features and actions: names, units, ranges and meanings.

The names and order of the features are a contract: the tables of a run (``obs/<feature>``) and trained policies depend
on them. ``observation.py`` computes the features by these names; ``action.py`` defines and applies the actions, which
are only described here. ``python -m raytune_rl.mdp`` prints the table.

"nats" are differences of the log score (``mdp/score.py``): 0.69 nats = a loss that has halved. Unknown values are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from raytune_rl.hyperparameters import LEVELS, ROLES, SEEN_ROLES, Role
from raytune_rl.hyperparameters.kinds import LEARNING_RATE_FACTORS, LINEAR_SHARES, LOG_FACTORS
from raytune_rl.hyperparameters.roles import seen_as
from raytune_rl.mdp.action import SOURCES, SourceName

LIMIT: Final = 4.0
"""Every feature is clipped to [-LIMIT, LIMIT]."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``range`` is that after clipping."""

    name: str
    unit: str
    range: str
    meaning: str


MEMBER_FEATURES: Final = (
    # Time
    Row("progress", "share", "0 to 1", "segments completed / segments of the run"),
    Row("remaining", "share squared", "0 to 1", "(1 - progress)^2"),
    Row("horizon_known", "flag", "0, 1", "the length of the run is known; progress and remaining are 0 without it"),
    Row("elapsed", "ln(1 + segments) / 2", "0 to 4", "segments completed; known even where the length is not"),
    Row("first", "flag", "0, 1", "nothing has been reported yet: the action sets the starting values"),
    Row("last", "flag", "0, 1", "the coming segment is the last one"),
    # Its score
    Row("gain", "nats", "-4 to 4", "score - the member's first score"),
    Row("to_best", "nats", "-4 to 0", "score - the best present score of the population"),
    Row("to_median", "nats", "-4 to 4", "score - the median present score of the population"),
    Row("z_score", "standard deviations", "-4 to 4", "score - mean of the population, in units of its spread"),
    Row("rank", "share", "0 to 1", "share of the other members that are better: 0 = best, 1 = worst"),
    Row("is_best", "flag", "0, 1", "no member is better"),
    Row("to_incumbent", "nats", "-4 to 0", "score - the best score of any member so far"),
    Row("to_own_best", "nats", "-4 to 0", "score - the member's own best score"),
    Row("own_best_age", "ln(1 + segments) / 2", "0 to 4", "segments since the member's own best score"),
    # Its trend
    Row("change_1", "nats", "-4 to 4", "change of the score over the last segment"),
    Row("change_2", "nats", "-4 to 4", "change of the score over the last two segments"),
    Row("gap", "nats", "-4 to 4", "ln(validation loss) - ln(training loss): above 0 = overfitting"),
    Row("gap_change", "nats", "-4 to 4", "change of the gap over the last segment"),
    # Copies and failures
    Row("copy_age", "ln(1 + segments) / 2", "0 to 4", "segments since its weights were replaced, or since the start"),
    Row("restarts", "failures / 2", "0 to 4", "segments that failed, hung or diverged"),
    Row("failed", "flag", "0, 1", "the last segment failed, hung or diverged"),
    Row("copy_allowed", "flag", "0, 1", "weights may be copied now"),
    # The training
    Row("optimiser", "sign", "-1 to 1", "1 = rescales each parameter's steps (Adam), -1 = plain SGD, 0 = unknown"),
    # Measurements of the training itself, by SIGNALS
    Row("signals_known", "share", "0 to 1", "share of the six signals below that were reported"),
    Row("train_loss", "nats", "-4 to 4", "ln(median training loss of the population) - ln(the member's)"),
    Row("loss_slope", "nats per segment", "-4 to 4", "change of the log training loss within the segment"),
    Row("loss_noise", "ratio", "0 to 4", "noise of the steps' losses / their mean"),
    Row("grad_norm", "log10", "-4 to 4", "mean L2 norm of the gradient"),
    Row("update_norm", "log10, + 3", "-4 to 4", "mean L2 norm of a step / L2 norm of the weights; 0 = one thousandth"),
    Row("train_seconds", "nats", "-4 to 4", "ln(the member's training time / the population's median)"),
    # The population
    Row("population", "ln(members) / 2", "0 to 4", "members alive"),
    Row("score_spread", "nats", "0 to 4", "standard deviation of the present scores"),
    Row("mean_change", "nats", "-4 to 4", "mean of the members' change_1"),
    Row("best_change", "nats", "-4 to 4", "change_1 of the best member"),
    Row("best_gap", "nats", "-4 to 4", "gap of the best member"),
    # The ensemble (mdp/ensemble_stats.py)
    Row("ensemble", "flag", "0, 1", "the objective is the ensemble; the features below are 0 if it is not"),
    Row("contribution", "nats x members", "-4 to 4", "uniform ensemble's score - its score without the member"),
    Row("contribution_change", "nats x members", "-4 to 4", "change of it over the last segment"),
    Row("greedy_weight", "share", "0 to 1", "weight in the greedy ensemble"),
    Row("distance", "prediction", "0 to 4", "mean distance of its predictions to the others'"),
    Row("nearest", "prediction", "0 to 4", "distance to the member whose predictions are the most like its own"),
    Row("team_spread", "prediction", "0 to 4", "mean distance of all pairs"),
    Row("ensemble_gain", "nats", "-4 to 4", "greedy ensemble's score - the best single member's"),
    Row("uniform_gain", "nats", "-4 to 4", "uniform ensemble's score - the best single member's"),
    Row("ensemble_change", "nats", "-4 to 4", "change of the greedy ensemble's score over the last segment"),
)


def _roles_seen_as(flag: Role) -> str:
    return " or ".join(role for role in ROLES if seen_as(role) == flag)


SLOT_FEATURES: Final = (
    Row("present", "flag", "0, 1", "the slot holds a hyperparameter; everything else is 0 without one"),
    Row("position", "range", "0 to 1", "where its value is in its range, in its scale"),
    Row("last_move", "range", "-1 to 1", "what the position changed by at the last decision"),
    Row("to_best", "range", "-1 to 1", "position of the best member - own position"),
    Row("spread", "range", "0 to 0.5", "standard deviation of the positions in the population"),
    Row("to_mean", "range", "-1 to 1", "mean position of the population - own position"),
    Row(
        "lead",
        "range",
        "-1 to 1",
        "mean position of the three best (of few: the better half) - mean of the population",
    ),
    Row("at_lower", "flag", "0, 1", "at the lower end of its range"),
    Row("at_upper", "flag", "0, 1", "at the upper end of its range"),
    Row("live", "flag", "0, 1", "may change during training"),
    Row("log", "flag", "0, 1", "on a log scale"),
    Row("ordered", "flag", "0, 1", "a larger position means more of something (else: a choice among equals)"),
    Row("value", "magnitude", "-4 to 4", "the value itself: log10 + 2 on a log scale, else asinh; 0 for a choice"),
    Row("lower", "magnitude", "-4 to 4", "the lower end of its range, likewise"),
    Row("upper", "magnitude", "-4 to 4", "the upper end of its range, likewise"),
    *(Row(f"role/{role}", "flag", "0, 1", f"its role is {_roles_seen_as(role)}") for role in SEEN_ROLES),
)


def slot_prefix(name: str | None, slot: int) -> str:
    """The prefix of the features of a slot: its hyperparameter's name, or its number where it is padding."""
    return f"pad/{slot}" if name is None else f"hp/{name}"


def _steps(numbers: tuple[float, ...], sign: str) -> str:
    return ", ".join(f"{number:{sign}g}" for number in numbers)


_SOURCE_MEANINGS: Final[Mapping[SourceName, str]] = {
    "keep": "go on with the own weights",
    "best": "weights and hyperparameters of the best other member, then the moves",
    "second": "the same from the second best other member",
    "incumbent": "best checkpoint of the member with the best score so far; its hyperparameters",
    "own_best": "roll back to the own best checkpoint; own hyperparameters",
}

ACTIONS: Final = (
    Row("hp/<name>, log scale, learning rate", "factor", f"{LEVELS} moves", f"x {_steps(LEARNING_RATE_FACTORS, '')}"),
    Row("hp/<name>, log scale, other roles", "factor", f"{LEVELS} moves", f"x {_steps(LOG_FACTORS, '')}"),
    Row("hp/<name>, linear scale", "range", f"{LEVELS} moves", f"{_steps(LINEAR_SHARES, '+')}; grids: >= 1 step"),
    Row("hp/<name>, choice", "options", f"{LEVELS} moves", "-3 ... +3; numbers stop at the ends, others go round"),
    Row("hp/<name>, first decision", "level", f"{LEVELS} levels", "evenly spaced; regularisation: both ends included"),
    Row("hp/<name>, start-only", "-", "ignored", "after the first decision it changes only with copied weights"),
    *(Row("source", "option", source, _SOURCE_MEANINGS[source]) for source in SOURCES),
    Row("stop", "option", "go, stop", "end this member's training (only with stopping=True)"),
)


def table() -> str:
    """The features and actions, as Markdown."""
    parts = (
        ("Observation: the member and its population", MEMBER_FEATURES),
        ("Observation: one block `hp/<name>/...` per hyperparameter (`pad/<slot>/...` is all 0)", SLOT_FEATURES),
        ("Action: one index per head", ACTIONS),
    )
    return "\n\n".join(f"**{title}**\n\n{_markdown(rows)}" for title, rows in parts)


def _markdown(rows: tuple[Row, ...]) -> str:
    lines = ["| name | unit | range | meaning |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.unit} | {row.range} | {row.meaning} |" for row in rows]
    return "\n".join(lines)
