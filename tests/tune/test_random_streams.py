"""A member's own random streams in a process that it shares with others."""

from __future__ import annotations

import random

import numpy as np
import torch

from raytune_rl.tune.random_streams import RandomStreams


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_what_a_member_draws_depends_on_its_seed_alone() -> None:
    one, other, same = RandomStreams(1), RandomStreams(2), RandomStreams(1)
    with one:
        first = draw()
    with other:
        assert all(a != b for a, b in zip(draw(), first, strict=True))
    draw()
    with one:
        second = draw()
    with same:
        assert (draw(), draw()) == (first, second)


def test_the_process_gets_its_own_streams_back() -> None:
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw(), draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = draw()
    with RandomStreams(1):
        draw()
    assert (before, draw()) == expected


def test_a_saved_state_repeats_what_came_after_it() -> None:
    one, other = RandomStreams(1), RandomStreams(2)
    with one:
        draw()
    other.state = one.state
    with one:
        expected = draw()
    with other:
        assert draw() == expected
