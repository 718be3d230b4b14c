"""The two ways in which orders reach a trial."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raytune_rl.tune import adapter
from raytune_rl.tune.hosts.delivery import ByPause, InPlace
from raytune_rl.tune.hosts.transfers import Orders

ORDERS = Orders(decisions=(), copies={})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    monkeypatch.setattr(adapter, "submit", lambda trial, method, *args: made.append((method, *args)) or "ref")
    monkeypatch.setattr(adapter, "train_on", lambda core, trial, method, *args: made.append((method, *args)))
    monkeypatch.setattr(adapter, "resume_training", lambda core, trial: made.append(("resume",)))
    return made


def trial() -> Any:
    one = SimpleNamespace(config={"trial": 0})
    one.set_config = lambda config: setattr(one, "config", config)
    return one


def test_in_place_the_actor_is_called(calls: list[Any]) -> None:
    way, one = InPlace(), trial()
    way.deliver(one, ORDERS)
    way.deliver_and_train(None, one, ORDERS)
    way.commit(one)
    way.resume(None, one)
    assert way.export(one, 3, "member") == "ref"
    assert calls == [
        ("apply", ORDERS),
        ("follow_and_train", ORDERS),
        ("commit",),
        ("resume",),
        ("export_state", 3, "member"),
    ]
    assert one.config == {"trial": 0}
    assert (way.answer(over=False, interrupted=False), way.answer(over=True, interrupted=False)) == ("CONTINUE", "STOP")
    assert way.waiting == "NOOP" and not way.saves_first


@pytest.mark.parametrize("send", [ByPause.deliver, lambda way, one, orders: way.deliver_and_train(None, one, orders)])
def test_by_pause_nothing_private_is_called(calls: list[Any], send: Any) -> None:
    way, one = ByPause(), trial()
    send(way, one, ORDERS)
    way.commit(one), way.resume(None, one), way.received(None, one)
    assert way.export(one, 3, "member") is None
    assert calls == [] and one.config == {"trial": 0, "orders": ORDERS}
    # A trial that is over comes back once more and ends by itself, except when the run ends here.
    assert (way.answer(over=True, interrupted=False), way.answer(over=True, interrupted=True)) == ("PAUSE", "STOP")
    assert way.waiting == "PAUSE" and way.saves_first
