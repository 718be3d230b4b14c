"""What each algorithm is told a decision was."""

from __future__ import annotations

import numpy as np
import pytest

from raytune_rl.records import Decision, Transition
from raytune_rl.rllib.spaces import Binned, Encoding, Factored, Sequential, Sizes

SIZES = Sizes(features=("a", "b"), heads=("hp/lr", "source", "stop"), nvec=(7, 5, 2))
ACTIONS = [(6, 0, 1), (3, 4, 0)]


def _transitions() -> list[Transition]:
    extras = {
        "action_dist_inputs": tuple(float(i) for i in range(14)),
        "action_logp": (-1.5,),
        "actions": (0.9, -1.0, 0.3),
    }
    decisions = [
        Decision(
            member=0,
            segment=i,
            hyperparameters={},
            positions=(),
            action=action,
            observation=(float(i), -float(i)),
            extras=extras,
        )
        for i, action in enumerate(ACTIONS)
    ]
    return [
        Transition(decision=decisions[0], reward=0.5, next_observation=(1.0, -1.0)),
        Transition(decision=decisions[1], reward=float("nan"), next_observation=(9.0, float("nan"))),
    ]


@pytest.mark.parametrize("kind", [Factored, Binned, Sequential])
def test_rows_fit_the_spaces(kind: type[Encoding]) -> None:
    encoding = kind(SIZES)
    rows = encoding.rows(_transitions())
    steps = 2 * encoding.substeps
    assert len(rows.observations) == steps + 1 and len(rows.actions) == len(rows.rewards) == steps
    assert all(encoding.observation_space.contains(row) for row in rows.observations)
    assert all(encoding.action_space.contains(row) for row in rows.actions)
    assert all(len(values) == steps for values in rows.outputs.values())
    # A reward that is no number counts as none; the last observation is the one that came after.
    assert rows.rewards.sum() == pytest.approx(0.5)
    assert rows.observations[-1][:2].tolist() == [4.0, 0.0]


def test_heads_in_sequence_show_what_has_been_chosen() -> None:
    encoding = Sequential(SIZES)
    rows = encoding.rows(_transitions())
    assert rows.actions.tolist() == [6, 0, 1, 3, 4, 0]
    assert rows.rewards[:3].tolist() == [0.0, 0.0, 0.5]
    features, turn, chosen = np.split(rows.observations, [2, 5], axis=1)
    assert features[:3].tolist() == [[0.0, 0.0]] * 3 and features[3:6].tolist() == [[1.0, -1.0]] * 3
    assert turn[:6].argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]
    assert chosen[0].tolist() == [0, 0, 0]
    assert chosen[2].tolist() == pytest.approx([1 - 1 / 7, -1 + 1 / 5, 0], abs=1e-6)
    assert chosen[3].tolist() == [0, 0, 0]
