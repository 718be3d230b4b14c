"""Search space, reports and whole lives of members that the tests of the decision process share."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st

from raytune_rl.hyperparameters import Choice, Float, Integer, SearchSpace
from raytune_rl.mdp import SIGNALS, MemberState, Score, advance
from raytune_rl.records import Report

SPACE = SearchSpace(
    (
        Float(name="lr", role="learning_rate", lower=1e-4, upper=1.0, log=True),
        Float(name="dropout", role="dropout", lower=0.0, upper=0.6),
        Integer(name="width", role="none", live=False, lower=8, upper=64, log=True),
        Choice(name="activation", options=("relu", "tanh", "gelu")),
    )
)
LOSS = Score(metric="validation_loss", mode="min")
MIDDLE = (0.5, 0.5, 0.5, 0.5)

few = settings(max_examples=25)
"""Whole lives are large examples, and slow to draw."""

wild = st.floats(allow_nan=True, allow_infinity=True)
"""Any float at all."""
losses = st.floats(0.0, 1e4)
statuses = st.sampled_from(["ok", "ok", "ok", "failed", "hung", "diverged"])
positions = st.tuples(*[st.floats(0.0, 1.0)] * len(SPACE))


def report(member: int, segment: int, loss: float | None, **fields) -> Report:
    """What a member says after a segment; ``loss=None``: it could not tell."""
    metrics = {} if loss is None else {"validation_loss": loss}
    metrics |= fields.pop("metrics", {})
    return Report(member=member, segment=segment, steps=10 * (segment + 1), metrics=metrics, seconds=1.0, **fields)


def live(losses: Sequence[float | None], *, member: int = 0, positions: Sequence[float] = MIDDLE) -> MemberState:
    """A member that has reported these losses, one per segment."""
    state = MemberState.start(member, positions)
    for segment, loss in enumerate(losses):
        status = "failed" if loss is None else "ok"
        state = advance(state, report(member, segment, loss, status=status), score=LOSS, positions=positions)
    return state


@st.composite
def reports(draw: st.DrawFn, member: int, segment: int) -> Report:
    """Any report that a broken candidate could make."""
    names = draw(st.sets(st.sampled_from([*SIGNALS, "unheard_of"])))
    metrics = draw(st.dictionaries(st.sampled_from(["validation_loss", "train_loss", "accuracy"]), wild))
    return Report(
        member=member,
        segment=segment,
        steps=draw(st.integers(0, 10**9)),
        metrics=metrics,
        signals={name: draw(wild) for name in sorted(names)},
        seconds=draw(wild),
        copied_from=draw(st.none() | st.integers(0, 3)),
        status=draw(statuses),
    )


@st.composite
def lives(draw: st.DrawFn, member: int = 0) -> list[MemberState]:
    """All states of a member's life, the one before its first segment included."""
    states = [MemberState.start(member, draw(positions))]
    for segment in range(draw(st.integers(0, 6))):
        said = draw(reports(member, segment))
        states.append(advance(states[-1], said, score=LOSS, positions=draw(positions)))
    return states


@st.composite
def populations(draw: st.DrawFn) -> list[MemberState]:
    """The newest states of one to four members."""
    return [draw(lives(member))[-1] for member in range(draw(st.integers(1, 4)))]
