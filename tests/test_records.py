"""Records travel and are kept as pickles; what is in these must not change."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from raytune_rl.records import Decision, Source, record


@record
class Ours:
    number: int
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    number: int
    words: tuple[str, ...] = ()


def test_a_record_survives_its_pickle() -> None:
    source = Source(kind="member", member=1, name="best")
    decision = Decision(member=3, segment=2, hyperparameters={"lr": 0.1}, positions=(0.5,), source=source, value=0.0)
    assert pickle.loads(pickle.dumps(decision)) == decision


def test_records_and_plain_dataclasses_read_each_others_pickles() -> None:
    ours, plain = Ours(number=3, words=("a",)), Plain(number=3, words=("a",))
    state = (3, ("a",))
    assert tuple(ours.__getstate__()) == tuple(plain.__getstate__()) == state  # type: ignore[arg-type]
    ours.__setstate__((4, ()))  # type: ignore[attr-defined]
    assert ours == Ours(number=4)
