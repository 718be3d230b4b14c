from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from raytune_rl.combining.aggregators import Uniform
from raytune_rl.ensemble import exporting
from raytune_rl.ensemble.building import build
from raytune_rl.ensemble.exporting import export_ensemble
from raytune_rl.ensemble.loading import load
from raytune_rl.ensemble.saving import save
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.errors import BadInput
from tests.ensemble.members import TASK, blobs_network, inputs, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept, segments = trained()
    found = build(
        Ensemble(aggregator=Uniform(), size=3), TASK, kept, segments, metric="validation_loss", mode="min", seed=0
    )
    directory = tmp_path_factory.mktemp("run")
    save(found, blobs_network, directory / "ensemble", "")
    return directory


def test_a_torch_program_predicts_the_same_for_any_number_of_rows(run: Path, tmp_path: Path) -> None:
    program = torch.export.load(export_ensemble(run, tmp_path / "ensemble.pt2")).module()
    model = load(run, ensemble=True)
    for rows in (1, 7):
        data = inputs(rows, 2)
        torch.testing.assert_close(program(data), model(data), rtol=1e-5, atol=1e-6)


def test_a_network_that_cannot_be_imported_is_passed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "ensemble", tmp_path / "ensemble")
    config = tmp_path / "ensemble" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "network": None}))
    with pytest.raises(BadInput, match=r"pass it: export_ensemble\(.*network=\.\.\.\)"):
        export_ensemble(tmp_path, tmp_path / "ensemble.pt2")
    assert export_ensemble(tmp_path, tmp_path / "ensemble.pt2", network=blobs_network).exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="the extra onnx is not installed")
def test_an_onnx_file_predicts_the_same(run: Path, tmp_path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(export_ensemble(run, tmp_path / "ensemble.onnx"))
    model = load(run, ensemble=True)
    for rows in (1, 7):
        data = inputs(rows, 2)
        (found,) = session.run(None, {session.get_inputs()[0].name: data.numpy()})
        torch.testing.assert_close(torch.tensor(found), model(data), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_done_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"must end in \.pt2"):
        export_ensemble(run, tmp_path / "ensemble.pb")
    with pytest.raises(BadInput, match=r"must end in \.pt2"):  # said before anything is loaded
        export_ensemble(tmp_path / "nothing", tmp_path / "ensemble.pb")
    with pytest.raises(BadInput, match="cannot be written: Is a directory"):
        (tmp_path / "folder.pt2").mkdir()
        export_ensemble(run, tmp_path / "folder.pt2")
    with pytest.raises(BadInput, match=r"file/ensemble\.pt2 cannot be written: \w"):
        (tmp_path / "file").touch()
        export_ensemble(run, tmp_path / "file" / "ensemble.pt2")
    with pytest.raises(BadInput, match=r"cannot be written: File name too long"):
        export_ensemble(run, tmp_path / f"{'e' * 300}.pt2")
    with pytest.raises(BadInput, match="holds no exported model"):
        export_ensemble(tmp_path, tmp_path / "ensemble.pt2")
    monkeypatch.setattr(exporting, "ONNX_PACKAGES", ("a_package_that_nobody_has",))
    with pytest.raises(BadInput, match=r"pip install 'raytune_rl\[onnx\]'"):
        export_ensemble(run, tmp_path / "ensemble.onnx")
