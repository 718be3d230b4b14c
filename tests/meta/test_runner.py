"""Which worlds an EnvRunner of meta-training plays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raytune_rl.meta import runner
from raytune_rl.meta.runner import TABLES, WorldRunner


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_worlds_is_real(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "table_world", lambda number: ("table", number))
    monkeypatch.setattr(runner, "make_world", lambda number: ("generated", number))
    stub = SimpleNamespace(config=SimpleNamespace(env_config={TABLES: share}))
    found = [WorldRunner.world(stub, number) for number in range(300)]
    assert [number for _, number in found] == list(range(300))
    assert sum(kind == "table" for kind, _ in found) == pytest.approx(300 * share, abs=30 if 0 < share < 1 else 0)
    assert found == [WorldRunner.world(stub, number) for number in range(300)]
