from __future__ import annotations

import numpy as np

from raytune_rl.rundir.places import Places


def test_agrees_with_a_dictionary_in_any_order() -> None:
    rng = np.random.default_rng(0)
    places, plain = Places(), dict[tuple[int, int], int]()
    for _ in range(5000):
        member, segment, part = (int(x) for x in rng.integers([4, 300, 5]))
        assert places.add(member, segment, part) == ((member, segment) not in plain)
        plain.setdefault((member, segment), part)
    for member in range(5):
        for segment in range(-1, 301):
            assert places.find(member, segment) == plain.get((member, segment))


def test_a_run_in_order_takes_no_room() -> None:
    places = Places()
    for segment in range(1000):
        for member in range(8):
            places.add(member, segment, segment // 100)
    assert len(places) == 80
