"""The host trial as an ordinary object: orders, swaps, state files, the note about a hang."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from raytune_rl.records import KEEP, Decision, Report, Source
from raytune_rl.tune.adapter import homeless
from raytune_rl.tune.hosts.host import HUNG_NOTE, PACK_HUNG_NOTE, HostSpec, HostTrainable
from raytune_rl.tune.hosts.messages import UNPACKED
from raytune_rl.tune.hosts.transfers import Orders
from raytune_rl.tune.storage import StateStore
from tests.population.models import TASK
from tests.tune.hosts.scripted import Counting, best_of, member


def plain_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))


Make = Callable[..., HostTrainable]


def decide(index: int, segment: int, lr: float, source: Source = KEEP, stop: bool = False) -> Decision:
    return Decision(
        member=index, segment=segment, hyperparameters={"lr": lr}, positions=(0.5,), source=source, stop=stop
    )


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(members: int = 3, orders: Orders | None = None, **changes: Any) -> HostTrainable:
        spec = HostSpec(
            candidate=Counting(),
            start=tuple(decide(i, 0, 10.0**i) for i in range(members)),
            segment_length=1,
            metric="score",
            mode="max",
            seed=0,
            state_uri=str(tmp_path / "state"),
        )
        spec = replace(spec, **changes)

        class Local(homeless(HostTrainable)):  # type: ignore[misc]
            def setup(self, config: dict[str, Any], specs: Any = ()) -> None:
                super().setup(config, specs=(spec,))

        host: HostTrainable = Local(config={"trial": 0, **({"orders": orders} if orders else {})})
        return host

    return build


def scores(result: dict[str, Any]) -> dict[int, float]:
    return {r.member: r.metrics["score"] for r in result["reports"]}


def orders(*decisions: Decision, save: bool = False, stage: bool = False) -> Orders:
    return Orders(decisions=decisions, copies={}, save=save, stage=stage)


def test_a_result_holds_a_report_per_member_and_the_best_value(make: Make) -> None:
    result = make().train()
    assert scores(result) == {0: 1.0, 1: 10.0, 2: 100.0}
    assert all(isinstance(report, Report) and report.trial_id == "trial-0" for report in result["reports"])
    assert result["score"] == 100.0 and not result["done"]


def test_members_that_swap_their_weights_really_swap_them(make: Make) -> None:
    host = make(2)
    host.train()
    host.apply(orders(decide(0, 1, 0.0, member(1)), decide(1, 1, 0.0, member(0))))
    assert scores(host.train()) == {0: 10.0, 1: 1.0}


def test_stopped_members_leave_the_loop_and_the_last_one_ends_the_trial(make: Make) -> None:
    host = make(2)
    host.train()
    host.apply(orders(decide(0, 1, 1.0, stop=True)))
    assert scores(host.train()).keys() == {1}
    host.apply(orders(decide(1, 2, 1.0, stop=True)))
    result = host.train()
    assert result["done"] and result["reports"] == []


def test_orders_for_segments_that_are_over_are_ignored(make: Make) -> None:
    host = make(1)
    host.train(), host.train()
    host.apply(orders(decide(0, 1, 500.0)))
    assert scores(host.train()) == {0: 3.0}


def test_a_new_host_finds_the_state(make: Make) -> None:
    host = make()
    host.train()
    host.apply(orders(decide(0, 1, 5.0), decide(1, 1, 10.0), decide(2, 1, 1.0, stop=True), save=True))
    host.train()  # never heard of again
    again = make()
    result = again.train()
    assert scores(result) == {0: 6.0, 1: 20.0}
    assert {r.segment for r in result["reports"]} == {1}


def test_a_staged_state_is_that_of_the_moment_and_needs_a_commit(make: Make) -> None:
    host = make()
    host.train()
    host.apply(orders(decide(0, 1, 5.0), decide(1, 1, 10.0), decide(2, 1, 1.0, stop=True), stage=True))
    assert {r.segment for r in make().train()["reports"]} == {0}, "nothing is saved yet"
    host.train()  # the driver writes its tables meanwhile
    assert host.commit()
    assert scores(make().train()) == {0: 6.0, 1: 20.0}
    assert not host.commit(), "once is enough"


def test_a_truncated_state_gives_the_one_before(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    host = make(1)
    for segment in (1, 2):
        host.train()
        host.apply(orders(decide(0, segment, 1.0), save=True))
    newest = sorted((tmp_path / "state").glob("state-*.bin"))[-1]
    os.truncate(newest, 100)
    with caplog.at_level(logging.WARNING):
        assert make(1).train()["reports"][0].segment == 1
    assert "cannot be used" in caplog.text


def test_a_full_disk_does_not_stop_training(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make(1)
    host.train()

    def full(file: object, piece: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raytune_rl.tune.storage._write_all", full)
    host.apply(orders(decide(0, 1, 2.0), save=True))
    assert scores(host.train()) == {0: 3.0}


def test_after_a_hang_only_that_member_loses_a_segment(make: Make, tmp_path: Path) -> None:
    StateStore(str(tmp_path / "state")).note(HUNG_NOTE, {"member": 1, "segment": 0})
    host = make()
    reports = host.train()["reports"]
    assert [r.status for r in reports] == ["ok", "hung", "ok"]
    host.apply(orders(decide(1, 1, 3.0, best_of(1))))
    assert [r.status for r in host.train()["reports"]] == ["ok", "ok", "ok"]
    assert not (tmp_path / "state" / HUNG_NOTE).exists()


def test_export_state_gives_present_or_best_weights(make: Make) -> None:
    host = make(1)
    with pytest.raises(LookupError):
        host.export_state(0, "checkpoint")
    host.train()
    host.apply(orders(decide(0, 1, -5.0)))
    host.train()
    present, best = host.export_state(0, "member"), host.export_state(0, "checkpoint")
    assert (present.state["score"], present.segment, best.state["score"], best.segment) == (-4.0, 1, 1.0, 0)


def test_orders_in_the_configuration_are_carried_out_at_the_start(make: Make) -> None:
    host = make(1)
    host.train()
    host.save_checkpoint("")
    assert scores(make(1, orders=orders(decide(0, 1, 7.0))).train()) == {0: 8.0}


def test_the_metric_that_is_missing_is_named(make: Make) -> None:
    assert make(1, metric="accuracy").train()["missing_metric"] == ["noise", "score"]


def torch_host(make: Make, **changes: Any) -> HostTrainable:
    task = dataclasses.replace(TASK, **changes)
    return make(candidate=task, metric="validation_loss", mode="min", segment_length=10, members=4)


def test_a_packed_trial_is_like_a_plain_one(make: Make, tmp_path: Path) -> None:
    def run(packed: bool) -> list[Report]:
        host = torch_host(make, packed=packed, network=plain_mlp)
        host._store = StateStore(str(tmp_path / f"state-{packed}"))
        reports = host.train()["reports"]
        host.apply(orders(decide(1, 1, 0.02, member(3)), decide(2, 1, 0.1, stop=True)))
        for _ in range(2):
            result = host.train()
            assert UNPACKED not in result
            reports += result["reports"]
        return list(reports)

    together, alone = run(True), run(False)
    assert len(together) == len(alone) == 4 + 3 + 3
    for one, other in zip(together, alone, strict=True):
        assert (one.member, one.segment, one.steps, one.status) == (other.member, other.segment, other.steps, "ok")
        assert one.metrics == pytest.approx(other.metrics, rel=1e-3)
        assert one.copied_from == other.copied_from
        assert one.hyperparameters == other.hyperparameters


def test_a_trial_says_once_why_it_trains_one_by_one(make: Make) -> None:
    host = torch_host(make, precision="bfloat16", network=plain_mlp)
    first, second = host.train(), host.train()
    assert "mixed precision" in first[UNPACKED] and UNPACKED not in second
    assert [report.status for report in first["reports"]] == ["ok"] * 4


def test_after_a_hang_in_a_pack_members_train_one_by_one(make: Make, tmp_path: Path) -> None:
    StateStore(str(tmp_path / "state")).note(PACK_HUNG_NOTE, {})
    host = torch_host(make, network=plain_mlp)
    assert host._pack is None
    assert torch_host(make, network=plain_mlp)._pack is not None, "once"
