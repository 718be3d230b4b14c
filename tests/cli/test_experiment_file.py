"""Experiment files: the one in there is found, and what is wrong with a file is said in the user's terms."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_rl import BadInput
from raytune_rl.cli.experiment_file import load_experiment

GOOD = """
from ray import tune
from raytune_rl import Experiment
def train(config): ...
{name} = Experiment(candidate=train, hyperparameters={{"lr": tune.loguniform(1e-4, 1e-1)}}, metric="loss", mode="min")
"""


def write(folder: Path, text: str, name: str = "my_exp.py") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_any_name_will_do_and_the_file_names_the_run(tmp_path: Path) -> None:
    assert load_experiment(write(tmp_path, GOOD.format(name="anything"))).name == "my_exp"


def test_one_of_several(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.format(name="one") + GOOD.format(name="two"))
    with pytest.raises(BadInput, match="one, two"):
        load_experiment(path)
    assert load_experiment(path, "two").metric == "loss"
    with pytest.raises(BadInput, match="three"):
        load_experiment(path, "three")


def test_two_names_for_one_experiment_are_one(tmp_path: Path) -> None:
    assert load_experiment(write(tmp_path, GOOD.format(name="one") + "alias = one\n")).metric == "loss"


def test_missing_file_and_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing\.py"):
        load_experiment(tmp_path / "nothing.py")
    with pytest.raises(BadInput, match="no Experiment"):
        load_experiment(write(tmp_path, "x = 1\n"))


def test_an_error_shows_the_users_frames_only(tmp_path: Path) -> None:
    path = write(tmp_path, "def broken():\n    return 1 / 0\n\nbroken()\n")
    with pytest.raises(BadInput) as caught:
        load_experiment(path)
    text = str(caught.value)
    assert "ZeroDivisionError" in text and "line 2, in broken" in text
    assert "raytune_rl" not in text and "importlib" not in text


def test_the_insides_of_libraries_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "from ray import tune\nrange_of_lr = tune.loguniform(0.0, 0.1)\n", "c_library.py")
    with pytest.raises(BadInput) as caught:
        load_experiment(path)
    text = str(caught.value)
    assert "line 2" in text and "lower bound greater than 0" in text and "sample.py" not in text


def test_syntax_errors_and_exits(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="SyntaxError"):
        load_experiment(write(tmp_path, "def f(:\n", "a_syntax.py"))
    with pytest.raises(BadInput, match="exit"):
        load_experiment(write(tmp_path, "raise SystemExit(3)\n", "b_exit.py"))


def test_a_bad_experiment_names_its_line(tmp_path: Path) -> None:
    text = GOOD.format(name="bad").replace('mode="min"', 'mode="min", population=0')
    with pytest.raises(BadInput, match=r"my_exp\.py, line 5: population is 0"):
        load_experiment(write(tmp_path, text))
