from __future__ import annotations

import pytest

from raytune_rl.analysis import Run, saw_and_did
from raytune_rl.analysis.plots import influences, strongest
from raytune_rl.analysis.plots.decisions import feature_name


def test_the_strongest_relations_come_first(run: Run) -> None:
    (ax,) = influences(run).axes
    rows = [text.get_text() for text in ax.get_yticklabels()]
    columns = [text.get_text() for text in ax.get_xticklabels()]
    assert rows[0] == "rank" and columns[-1] == "copy"
    best = saw_and_did(run.decisions).iloc[0]
    bold = {text.get_text() for text in ax.texts if text.get_fontweight() == "bold"}
    assert f"{best['correlation']:+.2f}" in bold


def test_the_strongest_one_in_full(run: Run) -> None:
    (ax,) = strongest(run).axes
    assert ax.get_xlabel().startswith("saw: rank") and ax.get_ylabel() == "did: chose to copy, % of decisions"
    shares = ax.lines[0].get_ydata()
    # PBT: the worst quarter copies and nobody else.
    assert shares[0] == 0 and shares[-1] == 100


@pytest.mark.parametrize(
    ("feature", "name"), [("rank", "rank"), ("hp/lr/position", "lr: position"), ("hp/a/b/to_best", "a/b: to_best")]
)
def test_features_are_named_for_readers(feature: str, name: str) -> None:
    assert feature_name(feature) == name
