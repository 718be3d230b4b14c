"""Mixed precision, on the CPU and wherever there is a GPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from raytune_rl.population.candidate import MemberContext
from raytune_rl.population.torch_member import TorchMember
from tests.devices import needs_gpu
from tests.population.models import START, TASK, build

PRECISIONS = ("float32", "bfloat16", "float16")


def on_gpu(**changes: Any) -> TorchMember:
    context = MemberContext(member=0, seed=7, device="cuda:0")
    member = dataclasses.replace(TASK, **changes).build(context, START)
    assert isinstance(member, TorchMember)
    return member


def check_learns(member: TorchMember) -> None:
    first = member.train(1)
    last = [member.train(20) for _ in range(5)][-1]
    assert last.metrics["validation_loss"] < first.metrics["validation_loss"] / 2
    assert last.metrics["validation_accuracy"] > 0.9
    network = member.get_state()["network"]
    assert all(array.dtype != np.float16 for array in network.values()), "weights are to stay float32"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_learns_in_every_precision(precision: Any) -> None:
    check_learns(build(precision=precision))


def test_the_arithmetic_is_really_narrower() -> None:
    exact, narrow = build(precision="float32").train(5), build(precision="bfloat16").train(5)
    assert exact.metrics != narrow.metrics
    assert narrow.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=0.05)


def test_the_scale_of_the_losses_is_part_of_a_snapshot() -> None:
    member = build(precision="float16")
    member.train(10)
    state = member.get_state()
    state["precision"]["scale"] = 64.0
    other = build(precision="float16", seed=1)
    other.set_state(state)
    assert other.get_state()["precision"]["scale"] == 64.0


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_it_learns_on_a_gpu(precision: Any, optimizer: Any) -> None:
    values = {} if optimizer != "sgd" else {"lr": 0.1}
    member = on_gpu(precision=precision, optimizer=optimizer)
    member.apply(values)
    assert next(member.controls.network.parameters()).device.type == "cuda"
    check_learns(member)


@needs_gpu
def test_weights_move_between_a_gpu_and_the_cpu() -> None:
    gpu, cpu = on_gpu(), build(seed=3)
    gpu.train(20)
    cpu.set_state(gpu.get_state())
    for name, array in gpu.get_state()["network"].items():
        assert np.array_equal(array, cpu.get_state()["network"][name])
    cpu.train(5)
    gpu.set_state(cpu.get_state())
    assert gpu.train(5).metrics["validation_accuracy"] > 0.8


@needs_gpu
def test_a_split_too_large_for_the_gpu_is_sent_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from raytune_rl.population import splits

    resident = on_gpu()
    monkeypatch.setattr(splits, "RESIDENT_BYTES", 0)
    splits.load_splits.cache_clear()
    try:
        sent = on_gpu()
        assert sent._train.inputs.device.type == "cpu"
        expected, found = resident.train(20).metrics, sent.train(20).metrics
        assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-2)
    finally:
        splits.load_splits.cache_clear()
