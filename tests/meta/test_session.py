"""What a meta-training keeps, and from where it continues; RLlib's part is replaced by a counter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raytune_rl.controller.tokens import initial_weights
from raytune_rl.meta import session as module
from raytune_rl.meta.recipe import Recipe
from raytune_rl.meta.session import Session
from raytune_rl.meta.validation import Validation
from raytune_rl.signals import Stoppable


class Killed(BaseException):
    """As a ``kill -9``: nothing of ours runs afterwards."""


class Counter:
    """Algorithm, its configuration and its learners in one: counts iterations, and dies in one of them."""

    def __init__(self, dies_in: int | None = None) -> None:
        self.iterations, self.dies_in = 0, dies_in
        self.learner_group = self

    def build_algo(self) -> Counter:
        return self

    def train(self) -> dict[str, Any]:
        if self.iterations + 1 == self.dies_in:
            raise Killed
        self.iterations += 1
        return {"env_runners": {"num_env_steps_sampled": 10}, "learners": {"default_policy": {}}}

    def save_to_path(self, path: str) -> None:
        Path(path).mkdir()
        Path(path, "iterations").write_text(str(self.iterations))

    def restore_from_path(self, path: str) -> None:
        self.iterations = int(Path(path, "iterations").read_text())

    def get_state(self, components: str) -> dict[str, Any]:
        return {"learner": {"rl_module": {"default_policy": initial_weights(0)}}}

    def stop(self) -> None:
        pass


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Collects the iterations that are validated; no worlds are played."""
    seen: list[int] = []
    monkeypatch.setattr(module, "RULES", {})
    monkeypatch.setattr(module, "from_module", lambda weights: weights)
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    write_log = Session._write_log

    def noting(self: Session, rows: Any) -> None:
        seen.extend(row["iteration"] for row in rows[-1:])
        write_log(self, rows)

    monkeypatch.setattr(Session, "_validate", lambda self, make: Validation(scores=np.array([[0.5]])))
    monkeypatch.setattr(Session, "_write_log", noting)
    yield seen


def run(directory: Path, algorithm: Counter, monkeypatch: pytest.MonkeyPatch, *, iterations: int) -> None:
    """Until so many iterations are done: each takes a minute."""
    monkeypatch.setattr(module, "ppo", lambda *_, **__: algorithm)
    clock = iter(range(0, 60 * 1000, 60))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    recipe = Recipe(clone_worlds=0, validate_every=4)
    assert Session(directory, recipe, say=lambda line: None).run(minutes=iterations, stoppable=Stoppable())


def curve(directory: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (directory / "log.jsonl").read_text().splitlines()]


def test_a_kill_costs_what_was_trained_since_the_last_checkpoint(
    tmp_path: Path, validated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Counter(dies_in=7), monkeypatch, iterations=9)
    assert curve(tmp_path) == [0, 4]
    second = Counter(dies_in=None)
    run(tmp_path, second, monkeypatch, iterations=9)
    assert second.iterations == 9  # 6 were saved, though the last validation was after 4
    assert curve(tmp_path) == [0, 4, 8, 9]


def test_what_was_saved_but_not_logged_is_validated_when_it_continues(
    tmp_path: Path, validated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, Counter(), monkeypatch, iterations=8)
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f"{line}\n" for line in log.read_text().splitlines()[:-1]))  # killed before the last row
    assert curve(tmp_path) == [0, 4]
    run(tmp_path, Counter(), monkeypatch, iterations=8)
    assert curve(tmp_path) == [0, 4, 8]


def test_rows_of_what_is_trained_again_come_again(
    tmp_path: Path, validated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, Counter(), monkeypatch, iterations=8)
    newest = max((tmp_path / "algorithm").iterdir())
    (newest / "algorithm" / "iterations").write_text("damaged")  # its fingerprint no longer fits: 7 is the one before
    validated.clear()
    again = Counter()
    run(tmp_path, again, monkeypatch, iterations=8)
    assert again.iterations == 8 and validated[-1] == 8 and curve(tmp_path) == [0, 4, 8]
