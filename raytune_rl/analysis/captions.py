"""The captions of the report's figures: a sentence or two on what each shows in this run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from raytune_rl.analysis.influence import COPY
from raytune_rl.analysis.lineage import HORIZON
from raytune_rl.analysis.plots.decisions import feature_name
from raytune_rl.analysis.plots.style import MANY
from raytune_rl.analysis.run import Run
from raytune_rl.analysis.scales import Scale
from raytune_rl.mdp.features import MEMBER_FEATURES, SLOT_FEATURES
from raytune_rl.records import FLOOR
from raytune_rl.texts import count, duration, number

MOST = 0.95
"""The share of the improvement whose time the caption of the anytime curve gives."""
SHOWN = 5
"""The largest number of the floor's actions that are listed."""


def anytime(run: Run) -> str:
    table = run.anytime
    known = table.dropna(subset="best")
    if known.empty:
        return f"No member has reported a finite {run.metric} yet."
    best = known["best"].to_numpy()
    total = abs(best[-1] - best[0])
    if total == 0:
        return "The first segment's best value was never beaten."
    row = int(np.argmax(np.abs(best - best[0]) >= MOST * total))
    share = known["trained"].iloc[row] / len(run.segments)
    text = f"{MOST:.0%} of the improvement over the first segment's best was made after {share:.0%} of the segments."
    if run.baseline is not None:
        text += " Random search trained as many members with values that never changed."
    return text


def lineage(run: Run) -> str:
    copies = run.lineage
    between_members = copies[copies["receiver"] != copies["donor"]]
    rollbacks = len(copies) - len(between_members)
    if copies.empty:
        return "No weights were copied: every member trained its own from the start to the end."
    path = run.best_path
    text = f"{count(len(between_members), 'copies', 'copy')} between members"
    text += f", {count(rollbacks, 'returns', 'return')} to an own best. " if rollbacks else ". "
    if len(path):
        members = path["member"].nunique()
        if members > 1:
            text += (
                f"The best weights were trained by {members} members one after the other, first by member "
                f"{path['member'].iloc[0]}. "
            )
        else:
            text += f"The best weights are member {path['member'].iloc[0]}'s own from the start. "
    if run.segments["member"].nunique() > MANY:
        text += "Shares of the population by whose first weights they descend from."
    return text.strip()


def floor(run: Run) -> str:
    """What the safe floor did; empty if the run had none."""
    if run.fields.get("floor") is None:
        return ""
    actions = int((run.decisions["source"] == FLOOR).sum())
    if not actions:
        return "The floor never acted: no member collapsed after a change and was left there."
    returns = run.lineage[run.lineage["kind"] == FLOOR]
    listed = [
        f"member {row.receiver} before segment {row.segment} (from {number(row.value_before)} back to "
        f"{number(row.value_donor)})"
        for row in returns.head(SHOWN).itertuples()
    ]
    more = [f"{actions - len(listed)} more"] if actions > len(listed) else []
    return (
        f"The floor acted {count(actions, 'times', 'time')}: after a change that {run.metric} collapsed by, these went "
        f"back to the weights and values of their own best: {', '.join([*listed, *more])}."
    )


def gains(run: Run) -> str:
    copies = run.lineage[run.lineage["receiver"] != run.lineage["donor"]]
    known = copies["gain"].dropna()
    if known.empty:
        return (
            "No copy between members whose gain could be told."
            if len(copies)
            else "There were no copies between members."
        )
    text = f"{(known > 0).sum():,} of {count(len(known), 'copies', 'copy')} gained in their first segment"
    later = copies.dropna(subset=["value_later", "donor_later"])
    if later.empty:
        return text + "."
    ahead = (
        later["value_later"] < later["donor_later"]
        if run.mode == "min"
        else later["value_later"] > later["donor_later"]
    )
    return (
        f"{text}. Up to {HORIZON} segments later, {ahead.sum():,} of {len(later):,} were ahead of their donors, who "
        "trained on from the same weights."
    )


def saw(pairs: pd.DataFrame) -> str:
    if pairs.empty:
        return "No decision differed from the others, so there is nothing to relate to what was seen."
    significant = int(pairs["beyond_chance"].sum())
    decisions = f"{pairs['decisions'].max():,} decisions"
    if not significant:
        return (
            f"Not one of {len(pairs):,} rank correlations in {decisions} is larger than chance makes them: no pattern "
            "that can be told from an agent that acts at random."
        )
    return (
        f"Rank correlations in {decisions}: {significant:,} of {len(pairs):,} are larger than chance makes them "
        "(bold). They show what went together, not why."
    )


def strongest(pairs: pd.DataFrame) -> str:
    first = pairs.iloc[0]
    more = "chose to copy more often" if first["did"] == COPY else f"moved {first['did']} further up"
    if first["correlation"] < 0:
        more = "chose to copy less often" if first["did"] == COPY else f"moved {first['did']} further down"
    text = f"The higher {feature_name(first['saw'])}, the agent {more} (rank correlation {first['correlation']:+.2f}"
    text += ")." if first["beyond_chance"] else "; no more than chance)."
    meaning = feature_meaning(str(first["saw"]))
    return f"{text} {feature_name(first['saw'])}: {meaning}." if meaning else text


def time(run: Run) -> str:
    timing = (run.summary or {}).get("timing") or {}
    train = float(run.segments["seconds"].sum())
    if timing.get("overhead_ratio") is None:
        return f"{duration(train)} of training so far; the wall time is known when the run has ended."
    ratio = f"{timing['overhead_ratio']:.2f} times the ideal"
    text = f"{duration(timing['wall_s'])} for {duration(train)} of training: {ratio}"
    if timing.get("decision_ms_p50") is not None:
        text += f". A decision took {timing['decision_ms_p50']:.1f} ms (99%: {timing['decision_ms_p99']:.0f} ms)"
    return f"{text}. The wall time counts from the first segment's start."


def segment_seconds(run: Run) -> str:
    seconds = run.segments["seconds"][run.segments["seconds"] > 0]
    if seconds.empty:
        return "No training time was measured yet."
    text = f"Median {duration(float(seconds.median()))}, slowest {duration(float(seconds.max()))}"
    nodes = run.segments["node"].nunique()
    return f"{text}, on {count(nodes, 'nodes')}." if nodes > 1 else f"{text}."


def by_seconds(runs: Sequence[Run]) -> str:
    text = "Against the training seconds of all members, without overhead."
    machines = {str((run.experiment.get("hardware") or {}).get("cpu")) for run in runs}
    return f"{text} The runs come from different machines." if len(machines) > 1 else text


def schedule(run: Run, name: str) -> str:
    path = run.best_path
    if path.empty:
        return ""
    values = path[f"hp/{name}"].dropna()
    if values.empty:
        return ""
    scale: Scale = run.scales[name]
    first, last = values.iloc[0], values.iloc[-1]
    if values.nunique() == 1:
        text = f"Best path: {number(_plain(first))} throughout"
    else:
        text = f"Best path: {number(_plain(first))} to {number(_plain(last))}"
    if not scale.categories and not {values.min(), values.max()} <= {first, last}:
        text += f", between {number(float(values.min()))} and {number(float(values.max()))}"
    if scale.lower is not None and scale.upper is not None:
        text += f"; range {number(scale.lower)} to {number(scale.upper)}"
    return f"{text}."


def feature_meaning(feature: str) -> str:
    """A feature's meaning according to the documented table of the observation; empty if it is not listed."""
    rows = SLOT_FEATURES if feature.startswith("hp/") else MEMBER_FEATURES
    short = feature.rpartition("/")[2]
    return next((row.meaning for row in rows if row.name == short), "")


def _plain(cell: object) -> object:
    return cell.item() if isinstance(cell, np.generic) else cell
