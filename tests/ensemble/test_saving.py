from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from raytune_rl import load
from raytune_rl.combining.aggregators import Uniform
from raytune_rl.ensemble.building import Built, build
from raytune_rl.ensemble.card import model_card
from raytune_rl.ensemble.model import EnsembleModel
from raytune_rl.ensemble.saving import save
from raytune_rl.ensemble.settings import Ensemble
from tests.ensemble.members import TASK, blobs_network, inputs, row, table, trained


@pytest.fixture(scope="module")
def built() -> Built:
    kept, segments = trained()
    return build(
        Ensemble(aggregator=Uniform(), size=3), TASK, kept, segments, metric="validation_loss", mode="min", seed=0
    )


@pytest.fixture
def run(built: Built, tmp_path: Path) -> Path:
    """A run directory as far as loading goes."""
    save(built, blobs_network, tmp_path / "ensemble", "the card")
    TASK.export(built.members[0].kept.state, tmp_path / "best")
    return tmp_path


def edit(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))


def test_the_loaded_ensemble_predicts_the_same(built: Built, run: Path) -> None:
    data = inputs(5, 2)
    expected = built.model(data)
    for model in (load(run, ensemble=True), load(run / "ensemble"), load(run / "ensemble", network=blobs_network)):
        assert isinstance(model, EnsembleModel) and not model.training
        torch.testing.assert_close(model(data), expected, rtol=1e-5, atol=1e-6)
        assert model.calibration == built.model.calibration
    assert not isinstance(load(run), EnsembleModel)
    assert (run / "ensemble" / "README.md").read_text() == "the card"
    assert sorted(path.name for path in (run / "ensemble").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_loading_needs_neither_ray_nor_a_pickle(built: Built, run: Path) -> None:
    code = f"""
import pickle, sys
pickle.Unpickler = pickle.load = pickle.loads = None
import torch, raytune_rl
model = raytune_rl.load({str(run)!r}, ensemble=True)
print(model(torch.ones(2, 2)).tolist())
assert not any(name == "ray" or name.startswith("ray.") for name in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    torch.testing.assert_close(torch.tensor(json.loads(answer.stdout)), built.model(torch.ones(2, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"kind": "torch"}, "does not describe a torch-ensemble"),
        ({"weights": [1.0]}, "positive and sum to 1"),
        ({"link": "median"}, "'median' is not what an ensemble averages"),
        ({"network": "os:system"}, "not annotated to return"),
        ({"members": []}, "lists no members|weights of 0 members"),
        ({"input": None}, "inputs look like"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(run: Path, changes: dict[str, object], message: str) -> None:
    edit(run / "ensemble", **changes)
    with pytest.raises(ValueError, match=message):
        load(run, ensemble=True)


def test_what_does_not_fit_is_said_in_one_sentence(run: Path, tmp_path: Path) -> None:
    def other(dropout: float = 0.0, width: int = 16) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))

    with pytest.raises(ValueError, match="do not fit the network"):
        load(run / "ensemble", network=other)
    (run / "ensemble" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cannot be read"):
        load(run, ensemble=True)
    with pytest.raises(ValueError, match="There is no directory"):
        load(tmp_path / "nowhere", ensemble=True)


def test_the_card_says_who_is_in_it_and_how_to_load_it(built: Built) -> None:
    _, segments = trained()
    card = model_card(
        built,
        TASK,
        segments,
        name="blobs",
        directory="results/blobs",
        test={"test_loss": 0.25},
        best={"validation_loss": 0.3, "test_loss": 0.31},
    )
    assert "raytune_rl.load('results/blobs', ensemble=True)" in card
    assert "| metric | ensemble | the single model that the run delivers |" in card  # which is no member
    assert "| test_loss | 0.25 | 0.31 |" in card
    for one in built.members:
        assert f"| {one.weight:.3f} | {one.kept.member} | {one.kept.segment} |" in card
        assert f"Member {one.kept.member} after segment {one.kept.segment}: " in card
    assert "tests.population.models:blobs" in card and "blobs_network" in card
    assert "dropout" in card and "Calibrated: a temperature" in card


def test_a_long_history_shows_where_it_began_and_a_soups_those_of_its_ingredients(built: Built) -> None:
    segments = table([row(3, segment, None, {"lr": 1.0 + segment}) for segment in range(40)])
    kept = dataclasses.replace(built.members[0].kept, member=3, segment=39, origin="soup")
    member = dataclasses.replace(built.members[0], kept=kept, ingredients=((3, 39), (3, 2)))
    card = model_card(
        dataclasses.replace(built, members=(member,)), TASK, segments, name="blobs", directory="d", test={}, best={}
    )
    assert "Member 3 after segment 39: 40 segments, the values at the start and the last 12 changes of them" in card
    assert "| 3 | 0 | 1 |\n| ... | ... | ... |\n| 3 | 28 | 29 |" in card and "| 3 | 39 | 40 |" in card
    assert "Member 3 after segment 2: 3 segments.\n" in card
