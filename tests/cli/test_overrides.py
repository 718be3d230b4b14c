"""``--set``: which fields there are, and what their text may be."""

from __future__ import annotations

import pytest

from raytune_rl import Agent, BadInput, Floor
from raytune_rl.cli.overrides import apply_overrides, settable
from tests.test_experiment import make


def test_scalars_by_dotted_path() -> None:
    changed = apply_overrides(
        make(agent=Agent()),
        ["population=16", "stop.seconds=1.5", "synchronous=true", "name=x", "schedule=cosine", "agent.algorithm=DQN"],
    )
    assert (changed.population, changed.stop.seconds, changed.synchronous, changed.name) == (16, 1.5, True, "x")
    assert changed.schedule == "cosine"
    assert changed.agent.algorithm == "DQN"  # type: ignore[union-attr]


def test_none_and_unions() -> None:
    changed = apply_overrides(make(), ["stop.seconds=none", "members_per_trial=auto"])
    assert changed.stop.seconds is None
    assert apply_overrides(changed, ["members_per_trial=3"]).members_per_trial == 3


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("populaton=3", ["populaton", "population"]),
        ("population", ["'='"]),
        ("population=many", ["population", "'many'", "int"]),
        ("mode=best", ["mode", "'min'"]),
        ("synchronous=1", ["synchronous", "true or false"]),
        ("stop=5", ["stop", "stop.seconds"]),
        ("population=0", ["population", "at least 1"]),
    ],
)
def test_mistakes_are_named(assignment: str, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        apply_overrides(make(), [assignment])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_every_settable_field_is_listed_once() -> None:
    names = [name for name, _ in settable(make(agent=Agent()))]
    assert len(names) == len(set(names))
    assert {"population", "segments", "seed", "stop.target", "failures.max_restarts", "agent.gamma"} <= set(names)
    assert {"floor", "floor.margin", "floor.rest"} <= set(names)
    assert "candidate" not in names


def test_the_floor_can_be_set_and_taken_away() -> None:
    assert apply_overrides(make(), ["floor.margin=1.5"]).floor == Floor(margin=1.5)
    assert apply_overrides(make(), ["floor=none"]).floor is None
    with pytest.raises(BadInput, match=r"floor\.rest is 0"):
        apply_overrides(make(), ["floor.rest=0"])
