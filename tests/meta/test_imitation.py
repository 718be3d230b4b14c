"""Learning from finished runs: their episodes, and where imitation leads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raytune_rl import Pretrained
from raytune_rl.controller.policies import Random
from raytune_rl.controller.tokens import MEMBER, TOKEN, policy_logits
from raytune_rl.hyperparameters import LEVELS, STAY
from raytune_rl.mdp.action import SOURCES
from raytune_rl.meta.from_runs import read_run
from raytune_rl.meta.imitation import episodes_of_runs, imitate
from raytune_rl.meta.recipe import Recipe
from tests.analysis.runs import write_run

FRAME = {"schedule": "cosine", "start": "agent"}


def test_episodes_are_as_wide_as_the_widest_run(tmp_path: Path) -> None:
    recorded = read_run(write_run(tmp_path / "run", agent=Random(), **FRAME))
    episodes = episodes_of_runs([recorded, recorded], slots=6)
    assert len(episodes) == 16
    episode = episodes[11]
    assert np.stack(episode.get_observations()).shape == (13, MEMBER + 6 * TOKEN)
    actions = np.stack(episode.get_actions())
    assert (actions[:, 4:6] == STAY).all() and (actions[:, :4] == recorded.members[3].actions[:, :4]).all()
    assert (actions[:, -1] == recorded.members[3].actions[:, -1]).all()
    custom = episode.custom_data
    assert (custom["task"], custom["population"], custom["member"]) == (0, 1, 3)


def test_imitation_goes_where_it_went_well(tmp_path: Path) -> None:
    """Losses fall fastest at a learning rate of 0.01, which lies between the fourth and the fifth level."""
    runs = [read_run(write_run(tmp_path / str(seed), agent=Random(), seed=seed, **FRAME)) for seed in range(3)]
    assert len({run.task for run in runs}) == 1
    before = Pretrained().weights
    after = imitate(Recipe(minibatch=64), before, runs)
    start = runs[0].members[0].observations[:1]

    def shares(weights: dict[str, np.ndarray]) -> np.ndarray:
        heads = policy_logits(weights, start, np)[0, :LEVELS]
        found = np.exp(heads - heads.max())
        return found / found.sum()

    assert np.isfinite(policy_logits(after, start, np)).all()
    good = slice(3, 5)
    assert shares(after)[good].sum() > shares(before)[good].sum() + 0.005
    assert abs(shares(after) - shares(before)).max() < 0.2  # and it has not forgotten what it was
    assert policy_logits(after, start, np).shape == (1, 4 * LEVELS + len(SOURCES))
