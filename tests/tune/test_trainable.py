"""Unchanged Trainables as candidates: changed, copied, restored, whatever their reset_config and restore do."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.tune.examples.pbt_example import PBTBenchmarkExample

from raytune_rl.population.candidate import Candidate, Member, MemberContext
from raytune_rl.tune import trainable
from raytune_rl.tune.trainable import TrainableMember, TrainableTask, find_reset_order, numbers


class Keeps(tune.Trainable):
    """The usual kind: reset_config sets attributes, restore brings back the weight only."""

    def setup(self, config: dict[str, Any]) -> None:
        self.lr, self.weight = config["lr"], 0.0

    def step(self) -> dict[str, Any]:
        self.weight += self.lr
        return {"weight": self.weight, "luck": random.random(), "nested": {"numpy": np.random.rand()}}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        return {"weight": self.weight}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.weight = checkpoint["weight"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.lr = new_config["lr"]
        return True


class Rebuilds(Keeps):
    """reset_config begins from nothing."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True


class Overwrites(Keeps):
    """restore brings the checkpoint's learning rate back, too (ray issue 62173)."""

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        return {"weight": self.weight, "lr": self.lr}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.weight, self.lr = checkpoint["weight"], checkpoint["lr"]


class Files(Keeps):
    """Checkpoints as files in folders."""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        os.makedirs(f"{checkpoint_dir}/deep/er")
        Path(checkpoint_dir, "deep/er/weight.txt").write_text(str(self.weight))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.weight = float(Path(checkpoint, "deep/er/weight.txt").read_text())


class NoReset(Keeps):
    """Never heard of reset_config."""

    reset_config = tune.Trainable.reset_config


class Refuses(Keeps):
    """Has one, but it does not work."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return False


class NeverTheSame(Overwrites):
    """Its checkpoints differ each time, so nobody can see that reset_config keeps the state."""

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        return {"weight": self.weight, "lr": self.lr, "id": os.urandom(4)}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.weight = checkpoint["weight"]


ALL: list[type[tune.Trainable]] = [Keeps, Rebuilds, Overwrites, Files, NoReset, Refuses, NeverTheSame]


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out about a class is remembered for a process's life."""
    monkeypatch.setattr(trainable, "_orders", {})


def build(cls: type[tune.Trainable], index: int = 0, lr: float = 1.0, **config: Any) -> TrainableMember:
    task = TrainableTask(trainable=cls, config=config)
    return task.build(MemberContext(member=index, seed=index), {"lr": lr})


def weight(metrics: Mapping[str, float]) -> float:
    return metrics["weight"]


def test_it_is_a_candidate() -> None:
    assert isinstance(TrainableTask(trainable=Keeps), Candidate)
    assert isinstance(build(Keeps), Member)


@pytest.mark.parametrize(
    ("cls", "order"),
    [
        (Keeps, "keeps"),
        (Rebuilds, "rebuilds"),
        (Overwrites, "keeps"),
        (Files, "keeps"),
        (NoReset, "unsupported"),
        (Refuses, "unsupported"),
        (NeverTheSame, "rebuilds"),
    ],
)
def test_what_reset_config_does_is_found_out_without_harm(cls: type[tune.Trainable], order: str) -> None:
    instance = build(cls)._instance
    instance.train()
    assert find_reset_order(instance) == order
    assert instance.train()["weight"] == 2.0
    assert instance.training_iteration == 2


@pytest.mark.parametrize("cls", ALL)
def test_a_change_leaves_the_weights_and_the_count(cls: type[tune.Trainable]) -> None:
    member = build(cls, other="constant")
    assert weight(member.train(3).metrics) == 3.0
    assert member.apply({"lr": 10.0}) == {"lr": 10.0}
    assert member._instance.config == {"lr": 10.0, "other": "constant"}
    result = member.train(2)
    assert weight(result.metrics) == 23.0
    assert result.steps == 2
    assert member._instance.training_iteration == 5


@pytest.mark.parametrize("cls", ALL)
def test_a_change_before_the_first_step(cls: type[tune.Trainable]) -> None:
    member = build(cls)
    member.apply({"lr": 5.0})
    assert weight(member.train(1).metrics) == 5.0


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("probed", [True, False])
def test_a_copy_takes_the_weights_and_its_own_new_values(cls: type[tune.Trainable], probed: bool) -> None:
    donor, receiver = build(cls, 0, lr=1.0), build(cls, 1, lr=100.0)
    donor.train(5)
    receiver.train(2)
    if probed:
        receiver.apply({"lr": 200.0})
    receiver.set_state(donor.get_state())
    assert receiver.apply({"lr": 3.0}) == {"lr": 3.0}
    result = receiver.train(1)
    assert weight(result.metrics) == 8.0
    assert result.steps == 1


@pytest.mark.parametrize("cls", ALL)
def test_restored_it_goes_on_exactly_there(cls: type[tune.Trainable]) -> None:
    member = build(cls, 4)
    member.train(2)
    member.apply({"lr": 0.5})
    state = member.get_state()
    expected = member.train(3)
    again = build(cls, 4, lr=9.0)
    again.set_state(state)
    again.apply({"lr": 0.5})
    assert again.train(3) == expected  # its luck included


def test_a_copy_has_its_own_luck() -> None:
    donor, receiver = build(Keeps, 0), build(Keeps, 1)
    donor.train(1)
    receiver.set_state(donor.get_state())
    assert donor.train(1).metrics["luck"] != receiver.train(1).metrics["luck"]


def test_members_do_not_disturb_each_other_nor_the_process() -> None:
    alone = build(Keeps, 0)
    expected = [alone.train(1).metrics for _ in range(3)]
    random.seed(1)
    before = random.getstate()
    first, second = build(Keeps, 0), build(Keeps, 1)
    metrics = []
    for _ in range(3):
        metrics.append(first.train(1).metrics)
        second.train(2)
    assert metrics == expected
    assert random.getstate() == before


def test_done_ends_the_segment() -> None:
    class Short(Keeps):
        def step(self) -> dict[str, Any]:
            return {**super().step(), "done": self.weight >= 2.0}

    result = build(Short).train(10)
    assert result.done and result.steps == 2


def test_metrics_are_the_numbers_of_the_result() -> None:
    result = {"a": 1, "b": {"c": np.float32(2.5), "d": {"e": True}}, "s": "text", "n": float("nan"), "time_total_s": 9}
    metrics = numbers(result)
    assert metrics.keys() == {"a", "b/c", "b/d/e", "n"}
    assert metrics["b/c"] == 2.5
    assert build(Keeps).train(1).metrics.keys() == {"weight", "luck", "nested/numpy"}


def test_export_is_its_own_checkpoint(tmp_path: Path) -> None:
    member = build(Files)
    member.train(2)
    task = TrainableTask(trainable=Files)
    task.export(member.get_state(), tmp_path / "best")
    assert (tmp_path / "best/deep/er/weight.txt").read_text() == "2.0"
    assert task.test(member.get_state()) == {}


def test_nothing_is_left_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "never"))
    member = build(Files)
    member.train(1)
    member.set_state(member.get_state())
    member.apply({"lr": 2.0})
    member.close()
    del member
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: TrainableTask(trainable=print), "subclass of ray.tune.Trainable"),
        (lambda: TrainableTask(trainable=tune.Trainable), "no save_checkpoint"),
        (lambda: TrainableTask(trainable=Keeps, config={"lr": 1}).check({"lr": 2.0}), "'lr'"),
    ],
)
def test_what_cannot_work_is_said(broken: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        broken()


def test_rays_own_example_unchanged() -> None:
    member = TrainableTask(trainable=PBTBenchmarkExample, config={"some_other_factor": 1}).build(
        MemberContext(member=0, seed=0), {"lr": 0.001}
    )
    assert member.train(2).metrics["cur_lr"] == 0.001
    before = member._instance.accuracy
    member.apply({"lr": 0.002})
    assert member._instance.accuracy == before
    assert member.train(1).metrics["cur_lr"] == 0.002
