"""How the agent's actions relate to what it saw: rank correlations between observations and actions.

A correlation is no explanation, and with a few hundred decisions and hundreds of pairs some are large by chance. So
each comes with the size that chance alone reaches. It is computed by Bonferroni's correction over all pairs, as if
decisions were independent; decisions about the same member are not quite independent.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd

from raytune_rl.hyperparameters import STAY
from raytune_rl.mdp.action import SOURCES

OBSERVATION, ACTION, SOURCE = "obs/", "act/", "source"
COPY = "copy"
"""The name of the action "take weights from elsewhere", chosen or not; the other actions have the names of their
hyperparameters."""

MAX_DECISIONS = 20_000
"""If there are more decisions, this many are used, evenly spaced: more would not change correlations visibly."""

SHARE_OF_CHANCE = 0.05
_FLAGS = ("/present", "/live", "/log", "/ordered")


def observed(decisions: pd.DataFrame) -> pd.DataFrame:
    """What the agent saw: one column per feature that ever changed, one row per decision of a policy (at most
    ``MAX_DECISIONS``)."""
    by_policy = _policy_decisions(decisions)
    columns = [
        c for c in by_policy.columns if c.startswith(OBSERVATION) and not c.endswith(_FLAGS) and "/role/" not in c
    ]
    frame = by_policy[columns].astype(np.float64)
    spread = frame.max() - frame.min()
    varying = frame.loc[:, (spread > 1e-9).to_numpy(dtype=bool)]
    return varying.rename(columns=lambda column: str(column).removeprefix(OBSERVATION))


def done(decisions: pd.DataFrame) -> pd.DataFrame:
    """What the agent did: one column per action that ever varied. Moves are from -3 to +3, for each ordered
    hyperparameter; ``copy`` says whether weights were to be taken from elsewhere (NaN if that was not allowed)."""
    by_policy = _policy_decisions(decisions)
    columns: dict[str, pd.Series] = {}
    for column in (c for c in by_policy.columns if c.startswith(ACTION)):
        name = column.removeprefix(ACTION)
        ordered = by_policy.get(f"{OBSERVATION}hp/{name}/ordered")
        if f"{OBSERVATION}hp/{name}/position" in by_policy and (ordered is None or ordered.max() > 0):
            columns[name] = by_policy[column] - STAY
    if ACTION + SOURCE in by_policy:
        copied = (by_policy[ACTION + SOURCE] != SOURCES.index("keep")).astype(float)
        allowed = by_policy.get(f"{OBSERVATION}copy_allowed")
        columns[COPY] = copied if allowed is None else copied.where(allowed > 0)
    frame = pd.DataFrame(columns)
    return frame.loc[:, (frame.nunique() > 1).to_numpy(dtype=bool)]


def saw_and_did(decisions: pd.DataFrame) -> pd.DataFrame:
    """How each action correlates with each observation.

    Returns:
        One row per pair, the strongest first: ``saw`` (feature), ``did`` (hyperparameter or ``copy``), ``correlation``
        (Spearman's, -1 to 1; positive: the larger the feature, the further up the move, or the more copies),
        ``decisions`` (their number), ``chance`` (the size that noise alone reaches somewhere among all these pairs in
        one of twenty runs), ``beyond_chance`` (whether the correlation is larger).
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


def _policy_decisions(decisions: pd.DataFrame) -> pd.DataFrame:
    """The decisions that a policy made during training, at most ``MAX_DECISIONS``: those with an action, except for
    starting values."""
    actions = [column for column in decisions.columns if str(column).startswith(ACTION)]
    if not actions:
        return decisions.iloc[:0]
    has_action = decisions[actions[0]].notna().to_numpy(dtype=bool)
    rows = np.flatnonzero(has_action & (decisions["segment"] > 0).to_numpy(dtype=bool))
    if len(rows) > MAX_DECISIONS:
        rows = rows[np.linspace(0, len(rows) - 1, MAX_DECISIONS).astype(int)]
    return decisions.iloc[rows]


def _spearman(saw: pd.DataFrame, did: pd.Series) -> pd.Series:
    """Rank correlation of each column with ``did``; NaN for constant columns."""
    x = saw.rank().to_numpy()
    y = did.rank().to_numpy()
    x, y = x - x.mean(axis=0), y - y.mean()
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return pd.Series(np.where(scale > 0, x.T @ y / scale, np.nan), index=saw.columns)
