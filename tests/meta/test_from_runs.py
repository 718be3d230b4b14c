"""Finished runs as experience: read back as they were, refused where they do not fit, and learned from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raytune_rl import BadInput, Pretrained
from raytune_rl.controller.policies import PBT, Random
from raytune_rl.controller.tokens import MEMBER, TOKEN
from raytune_rl.hyperparameters import STAY
from raytune_rl.meta.from_runs import Recorded, read_run
from raytune_rl.meta.imitation import episodes_of_runs
from raytune_rl.meta_train import main
from tests.analysis.runs import HYPERPARAMETERS, edit_json, write_run

FRAME = {"schedule": "cosine", "start": "agent"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "pbt", agent=PBT(), seed=1, copy_every=2, **FRAME)


@pytest.fixture(scope="module")
def recorded(directory: Path) -> Recorded:
    return read_run(directory)


def test_decisions_are_what_the_tables_say(directory: Path, recorded: Recorded) -> None:
    decisions = pd.read_parquet(directory / "decisions.parquet").sort_values(["member", "segment"])
    assert recorded.decisions == len(decisions) == 8 * 12 and recorded.left_out == 0
    told = recorded.members[3]
    rows = decisions[decisions["member"] == 3]
    assert told.segments.tolist() == list(range(12))
    assert told.observations.shape == (12, MEMBER + len(HYPERPARAMETERS) * TOKEN)
    assert told.observations[:, 0] == pytest.approx(rows["obs/progress"])
    names = ["act/lr", "act/dropout", "act/batch_size", "act/init", "act/source"]
    assert (told.actions == rows[names].to_numpy()).all()
    assert told.rewards == pytest.approx(rows["reward"])


def test_descent_and_scores_are_those_of_the_segments(directory: Path, recorded: Recorded) -> None:
    segments = pd.read_parquet(directory / "segments.parquet")
    copies = segments[segments["copied_from"].notna()]
    assert len(copies) > 3
    for row in copies.itertuples():
        assert recorded.parent[row.segment, row.member] == row.copied_from
        assert recorded.parent_segment[row.segment, row.member] == row.copied_segment
    rest = segments[segments["copied_from"].isna()]
    assert (recorded.parent[rest["segment"], rest["member"]] == rest["member"]).all()
    assert recorded.parent_segment[0].tolist() == [-1] * 8
    losses = segments.pivot(index="segment", columns="member", values="metric/loss").to_numpy()
    np.testing.assert_allclose(recorded.validation, -np.log(losses + 0.02), rtol=1e-6)


def test_without_a_cosine_moves_of_a_learning_rate_are_left_out(tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path / "plain", agent=Random(), start="agent"))
    assert found.left_out > 40
    for told in found.members:
        assert told.segments[0] == 0  # the start counts
        assert (told.actions[1:, 0] == STAY).all()


def test_a_member_that_failed_and_one_that_ended_early(tmp_path: Path) -> None:
    faults = {(2, 4): {"status": "failed", "metrics": {}, "error": "x"}, (5, 6): {"done": True}}
    found = read_run(write_run(tmp_path / "faulty", agent=Random(), faults=faults, **FRAME))
    assert found.validation[4, 2] == -20.0 and (found.validation[7:, 5] == -20.0).all()
    assert 5 not in found.members[2].segments  # nobody was asked about the restart
    assert np.isfinite(found.validation).all()
    assert len(episodes_of_runs([found])) == 8


def test_what_members_were_to_their_ensemble(tmp_path: Path) -> None:
    failure = {"status": "failed", "metrics": {}, "error": "x"}
    faults = {(2, 4): failure, (5, 6): {"done": True}, (6, 9): failure}
    path = write_run(tmp_path / "team", agent=Random(), faults=faults, **FRAME)
    told = json.loads((path / "experiment.json").read_text())
    edit_json(path / "experiment.json", experiment={**told["experiment"], "objective": "ensemble"})
    for part in (path / "segments.parquet").glob("*.parquet"):
        table = pq.read_table(part)
        table = table.filter((pc.field("member") != 6) | (pc.field("segment") <= 9))  # it failed for good
        rows = table.to_pandas()
        measures = {"contribution": rows["member"] + 100.0 * rows["segment"], "loss": 1.0 / (1 + rows["segment"])}
        for name, values in measures.items():
            sound = values.where(rows["metric/loss"].notna())
            table = table.append_column(f"metric/ensemble_{name}", pa.array(sound, pa.float64(), from_pandas=True))
        pq.write_table(table, part)
    found = read_run(path)
    assert (
        found.team is not None and found.task != read_run(write_run(tmp_path / "alone", agent=Random(), **FRAME)).task
    )
    assert found.team.contribution[3, 7] == 307 and np.isnan(found.team.contribution[4, 2])
    assert (found.team.contribution[7:, 5] == 605).all()  # it has ended, and is a member still
    assert np.isnan(found.team.contribution[9:, 6]).all()  # failed, and is none any more
    np.testing.assert_allclose(found.team.score, -np.log(1.0 / np.arange(1, 13) + 0.02))
    episode = episodes_of_runs([found])[0]
    assert episode.custom_data["contribution"].shape == (12, 8) and episode.custom_data["ensemble"].shape == (12,)


def test_runs_that_do_not_fit_are_refused_in_a_sentence(directory: Path, tmp_path: Path) -> None:
    def altered(name: str) -> Path:
        return write_run(tmp_path / name, agent=Random(), seed=2, **FRAME)

    def rewritten(path: Path, change) -> Path:
        table = pq.read_table(path / "decisions.parquet")
        for part in (path / "decisions.parquet").iterdir():
            part.unlink()
        pq.write_table(change(table), path / "decisions.parquet" / "part-000001.parquet")
        return path

    def emptied(table: pa.Table) -> pa.Table:
        names = [name for name in table.schema.names if name.startswith("act/")]
        for name in names:
            nothing = pa.nulls(table.num_rows, pa.int64())
            table = table.set_column(table.schema.get_field_index(name), name, nothing)
        return table

    def wild(table: pa.Table) -> pa.Table:
        values = pa.array([99] * table.num_rows, pa.int64())
        return table.set_column(table.schema.get_field_index("act/lr"), "act/lr", values)

    def unseen(table: pa.Table) -> pa.Table:
        """As a run has it that was taken up again by a version that sees more."""
        values = pa.array([None, *[0.0] * (table.num_rows - 1)], pa.float32())
        return table.set_column(table.schema.get_field_index("obs/hp/lr/lead"), "obs/hp/lr/lead", values)

    newer = altered("newer")
    edit_json(newer / "experiment.json", schema_version=99)
    together = altered("together")
    told = json.loads((together / "experiment.json").read_text())
    edit_json(together / "experiment.json", experiment={**told["experiment"], "objective": "ensemble"})
    extra = pa.array([0.0], pa.float32())
    cases = {
        "is not a run directory": tmp_path,
        "has not finished": write_run(tmp_path / "half", agent=Random(), finished=False, **FRAME),
        "schema_version 99": newer,
        "have no metric/ensemble_contribution": together,
        "have no obs/rank": rewritten(altered("less"), lambda t: t.drop_columns(["obs/rank"])),
        "saw obs/mood": rewritten(
            altered("more"), lambda t: t.append_column("obs/mood", pa.concat_arrays([extra] * t.num_rows))
        ),
        "no policy decided anything": rewritten(altered("nobody"), emptied),
        "are not this version's": rewritten(altered("wild"), wild),
        "made some of its decisions": rewritten(altered("mixed"), unseen),
    }
    for message, path in cases.items():
        with pytest.raises(BadInput, match=rf"^--from-runs {path}: .*{message}"):
            read_run(path)


def test_the_command_says_what_does_not_fit_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "x"), "--from-runs", str(tmp_path / "nothing")]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.cluster
def test_the_command_leaves_a_controller_that_knows_the_runs(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "meta"
    small = ["worlds=1", "pack=32", "runners=1", "minibatch=64", "validation_worlds=1", "validation_populations=1"]
    settings = [part for change in small for part in ("--set", change)]
    command = [sys.executable, "-m", "raytune_rl.meta_train", "--out", str(out), "--minutes", "0.02", *settings]
    done = subprocess.run([*command, "--from-runs", str(directory)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"imitating 96 decisions of {directory}" in done.stdout
    best = Pretrained(out / "best")
    assert best.record["recipe"]["runs"] == [str(directory)]
    assert json.loads((out / "recipe.json").read_text())["runs"] == [str(directory)]
    shipped = Pretrained().weights
    assert any(not np.array_equal(best.weights[name], shipped[name]) for name in shipped)
