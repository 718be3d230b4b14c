from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from raytune_rl.analysis import Run, saw_and_did
from raytune_rl.analysis.influence import MAX_DECISIONS, done, observed

COLUMNS = ["saw", "did", "correlation", "decisions", "chance", "beyond_chance"]


def decisions(count: int, *, seed: int = 0) -> pd.DataFrame:
    """An agent that lowers the learning rate the more the gap, copies when it is behind, and rolls dice otherwise."""
    rng = np.random.default_rng(seed)
    gap, rank, noise = rng.normal(size=count), rng.random(count), rng.normal(size=count)
    allowed = rng.random(count) < 0.5
    return pd.DataFrame(
        {
            "member": 0,
            "segment": np.arange(count) + 1,
            "source": "keep",
            "obs/gap": gap,
            "obs/rank": rank,
            "obs/noise": noise,
            "obs/copy_allowed": allowed.astype(float),
            "obs/hp/lr/position": rng.random(count),
            "obs/hp/lr/ordered": 1.0,
            "obs/hp/lr/log": 1.0,
            "obs/hp/lr/role/learning_rate": 1.0,
            "obs/hp/init/position": rng.random(count),
            "obs/hp/init/ordered": 0.0,
            "act/lr": np.clip(np.round(3 - 1.5 * gap + 0.5 * rng.normal(size=count)), 0, 6),
            "act/init": rng.integers(0, 7, count),
            "act/source": np.where(rank > 0.7, 1, 0),
        }
    )


def test_what_really_steers_the_agent_is_found() -> None:
    pairs = saw_and_did(decisions(400))
    assert list(pairs.columns) == COLUMNS
    firm = pairs[pairs["beyond_chance"]]
    assert {(row.saw, row.did) for row in firm.itertuples()} == {("gap", "lr"), ("rank", "copy")}
    found = firm.set_index("did")["correlation"]
    assert found["lr"] < -0.8 and found["copy"] > 0.7
    assert pairs["correlation"].abs().iloc[0] == pytest.approx(pairs["correlation"].abs().max(), abs=0.2)


def test_correlations_are_spearmans() -> None:
    table = decisions(200)
    pairs = saw_and_did(table).set_index(["saw", "did"])["correlation"]
    assert pairs["gap", "lr"] == pytest.approx(table["obs/gap"].corr(table["act/lr"], method="spearman"))


def test_chance_alone_seldom_passes() -> None:
    passed = 0
    for seed in range(40):
        table = decisions(150, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        for column in ("act/lr", "act/source"):
            table[column] = rng.permutation(table[column].to_numpy())
        passed += bool(saw_and_did(table)["beyond_chance"].any())
    assert passed <= 6  # one in twenty is expected


def test_only_what_could_be_done_counts() -> None:
    table = decisions(200)
    did = done(table)
    assert list(did.columns) == ["lr", "copy"]  # a choice among equals has no up and down
    assert did["lr"].between(-3, 3).all()
    assert did["copy"].notna().sum() == (table["obs/copy_allowed"] > 0).sum()
    assert "hp/lr/log" not in observed(table) and "hp/lr/role/learning_rate" not in observed(table)


def test_starting_values_and_restarts_are_no_decisions() -> None:
    table = decisions(50)
    table.loc[0, "segment"] = 0
    table.loc[1, [c for c in table if str(c).startswith(("obs/", "act/"))]] = np.nan
    assert len(observed(table)) == len(done(table)) == 48


def test_many_decisions_are_thinned_out() -> None:
    pairs = saw_and_did(decisions(2 * MAX_DECISIONS))
    assert pairs["decisions"].max() == MAX_DECISIONS


@pytest.mark.parametrize("columns", [["member", "segment", "source"], ["member", "segment", "source", "obs/gap"]])
def test_runs_without_an_agent_have_nothing_to_relate(columns: list[str]) -> None:
    pairs = saw_and_did(decisions(20)[columns])
    assert pairs.empty and list(pairs.columns) == COLUMNS


def test_a_real_runs_decisions(run: Run) -> None:
    strongest = saw_and_did(run.decisions).iloc[0]
    assert (strongest["saw"], strongest["did"]) == ("rank", "copy")  # which is how PBT decides
    assert strongest["correlation"] > 0.5 and strongest["beyond_chance"]
