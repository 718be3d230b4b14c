"""The notebook in ``experiments/`` runs from its first cell to its last on a finished run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raytune_rl.controller.policies import PBT
from tests.analysis.runs import write_run

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "analysis.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_notebook_leads_from_a_run_to_insight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", agent=PBT(), compare=True)
    monkeypatch.setenv("RUN", str(run))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs of somebody's run do not belong in git"
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5
    assert any("copies" in output.get("text", "") for output in outputs)
