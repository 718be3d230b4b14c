"""What the agent did against what it saw: rank correlations between observations and actions.

A correlation is no explanation, and with a few hundred decisions and hundreds of pairs some are large by chance. So
each comes with the size that chance alone reaches (Bonferroni over all pairs, decisions taken as independent, which
decisions about one member are not quite).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd

from raytune_rl.hyperparameters import STAY
from raytune_rl.mdp.action import SOURCES

OBSERVATION, ACTION, SOURCE = "obs/", "act/", "source"
COPY = "copy"
"""The choice "take weights from elsewhere", whether it was possible or not; the others are named after their
hyperparameters."""

MAX_DECISIONS = 20_000
"""Of more than these so many are taken, in even steps: the others change no correlation that anybody could see."""

SHARE_OF_CHANCE = 0.05
_FLAGS = ("/present", "/live", "/log", "/ordered")


def observed(decisions: pd.DataFrame) -> pd.DataFrame:
    """What was seen, one column per feature that ever changed, one row per decision that a policy made
    (``MAX_DECISIONS`` at the most)."""
    chosen = _asked(decisions)
    columns = [c for c in chosen.columns if c.startswith(OBSERVATION) and not c.endswith(_FLAGS) and "/role/" not in c]
    frame = chosen[columns].astype(np.float64)
    spread = frame.max() - frame.min()
    moving = frame.loc[:, (spread > 1e-9).to_numpy(dtype=bool)]
    return moving.rename(columns=lambda column: str(column).removeprefix(OBSERVATION))


def done(decisions: pd.DataFrame) -> pd.DataFrame:
    """What was done, one column per action that ever varied: moves from -3 to +3 per ordered hyperparameter, and
    ``copy``, whether weights were to be taken from elsewhere (NaN where that was not allowed)."""
    chosen = _asked(decisions)
    columns: dict[str, pd.Series] = {}
    for column in (c for c in chosen.columns if c.startswith(ACTION)):
        name = column.removeprefix(ACTION)
        ordered = chosen.get(f"{OBSERVATION}hp/{name}/ordered")
        if f"{OBSERVATION}hp/{name}/position" in chosen and (ordered is None or ordered.max() > 0):
            columns[name] = chosen[column] - STAY
    if ACTION + SOURCE in chosen:
        copied = (chosen[ACTION + SOURCE] != SOURCES.index("keep")).astype(float)
        allowed = chosen.get(f"{OBSERVATION}copy_allowed")
        columns[COPY] = copied if allowed is None else copied.where(allowed > 0)
    frame = pd.DataFrame(columns)
    return frame.loc[:, (frame.nunique() > 1).to_numpy(dtype=bool)]


def saw_and_did(decisions: pd.DataFrame) -> pd.DataFrame:
    """How each action went with each observation.

    Returns:
        One row per pair, the strongest first: ``saw`` (feature), ``did`` (hyperparameter or ``copy``), ``correlation``
        (Spearman's, -1 to 1: positive = the more of the feature, the further up or the more copies), ``decisions``,
        ``chance`` (what noise alone reaches among all these pairs in one of twenty runs), ``beyond_chance``.
    """
    saw, did = observed(decisions), done(decisions)
    parts = []
    for name in did.columns:
        rows = did[name].notna().to_numpy(dtype=bool)
        if rows.sum() < 8 or saw.shape[1] == 0:
            continue
        correlations = _spearman(saw[rows], did.loc[rows, name])
        part = pd.DataFrame({"saw": correlations.index, "did": name, "correlation": correlations.to_numpy()})
        part["decisions"] = int(rows.sum())
        parts.append(part)
    if not parts:
        kinds = {"saw": "str", "did": "str", "correlation": "float64", "decisions": "int64"}
        kinds |= {"chance": "float64", "beyond_chance": "bool"}
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    pairs = pd.concat(parts, ignore_index=True).dropna(subset="correlation")
    quantile = NormalDist().inv_cdf(1.0 - SHARE_OF_CHANCE / 2 / max(len(pairs), 1))
    pairs["chance"] = np.minimum(quantile / np.sqrt(pairs["decisions"] - 1), 1.0)
    pairs["beyond_chance"] = pairs["correlation"].abs() > pairs["chance"]
    strongest = (pairs["correlation"].abs() / pairs["chance"]).sort_values(ascending=False, kind="stable").index
    return pairs.loc[strongest].reset_index(drop=True)


def _asked(decisions: pd.DataFrame) -> pd.DataFrame:
    """The decisions that a policy made during training: with an action, on an observation, not the starting values;
    ``MAX_DECISIONS`` at the most."""
    actions = [column for column in decisions.columns if str(column).startswith(ACTION)]
    if not actions:
        return decisions.iloc[:0]
    asked = decisions[actions[0]].notna().to_numpy(dtype=bool) & (decisions["segment"] > 0).to_numpy(dtype=bool)
    rows = np.flatnonzero(asked)
    if len(rows) > MAX_DECISIONS:
        rows = rows[np.linspace(0, len(rows) - 1, MAX_DECISIONS).astype(int)]
    return decisions.iloc[rows]


def _spearman(saw: pd.DataFrame, did: pd.Series) -> pd.Series:
    """Rank correlation of each column with ``did``; NaN for columns that are constant here."""
    x = saw.rank().to_numpy()
    y = did.rank().to_numpy()
    x, y = x - x.mean(axis=0), y - y.mean()
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return pd.Series(np.where(scale > 0, x.T @ y / scale, np.nan), index=saw.columns)
