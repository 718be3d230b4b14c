"""Credit, on lineages small enough to be worked out by hand, and in the learner's batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.evaluation.postprocessing import Postprocessing

from raytune_rl.controller.tokens import initial_weights
from raytune_rl.meta.advantages import MetaAdvantages, descendants, lineage_credit, team_score
from raytune_rl.meta.episodes import episodes_of, play, recorder
from raytune_rl.meta.training import ACTIONS, OBSERVATIONS
from raytune_rl.rllib.token_module import TokenModule
from raytune_rl.worlds.generator import make_world

# Two members, three segments. Before the last one, member 1 takes the weights of member 0.
VALIDATION = np.array([[0.1, 0.0], [0.2, 0.1], [0.3, 0.5]])
TEST = VALIDATION * 10
PARENT = np.array([[0, 1], [0, 1], [0, 0]])
PARENT_SEGMENT = np.array([[-1, -1], [0, 0], [1, 1]])


def test_weights_become_their_best_descendant() -> None:
    best, paid = descendants(VALIDATION, TEST, PARENT, PARENT_SEGMENT)
    # Member 0's weights became the 0.5 that member 1 reached with them; member 1's own ended at 0.1.
    np.testing.assert_allclose(paid, [[5.0, 1.0], [5.0, 1.0], [3.0, 5.0]])
    np.testing.assert_allclose(best, paid / 10)


def test_descendants_are_chosen_by_validation_and_paid_by_test() -> None:
    test = np.array([[9.0, 0.0], [0.0, 0.0], [7.0, 1.0]])
    assert descendants(VALIDATION, test, PARENT, PARENT_SEGMENT)[1][0, 0] == 1.0


def test_decisions_are_paid_for_the_gain_and_starts_for_the_lead() -> None:
    credit = lineage_credit(VALIDATION, TEST, PARENT, PARENT_SEGMENT)
    np.testing.assert_allclose(credit[0], [4.0, 0.0])  # the winner's founder, over the other founder
    np.testing.assert_allclose(credit[1:], [[4.0, 1.0], [1.0, 4.0]])
    alone = lineage_credit(VALIDATION[:, :1], TEST[:, :1], PARENT[:, :1], PARENT_SEGMENT[:, :1])
    np.testing.assert_allclose(alone[:, 0], [3.0, 2.0, 1.0])


def test_the_team_is_paid_for_what_validation_would_take() -> None:
    assert team_score(VALIDATION, TEST) == 5.0
    assert team_score(VALIDATION, -TEST) == -5.0


@pytest.fixture(scope="module")
def played():
    """Episodes of two populations, and a batch and a module as a learner has them."""
    episodes = episodes_of(play(make_world(3), recorder(initial_weights(0)), groups=2))
    observations = np.concatenate([episode.get_observations()[:-1] for episode in episodes])
    spec = RLModuleSpec(
        module_class=TokenModule, observation_space=OBSERVATIONS, action_space=ACTIONS, model_config={"seed": 0}
    )
    return episodes, {DEFAULT_MODULE_ID: spec.build()}, torch.as_tensor(observations)


def credited(played, **settings) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Targets, advantages and the critic's values, an array per episode."""
    episodes, modules, observations = played
    batch = {DEFAULT_MODULE_ID: {Columns.OBS: observations}}
    MetaAdvantages(**settings)(rl_module=modules, batch=batch, episodes=episodes)
    ends = np.cumsum([len(episode) for episode in episodes])[:-1]
    with torch.no_grad():
        values = modules[DEFAULT_MODULE_ID].compute_values({Columns.OBS: observations})
    columns = batch[DEFAULT_MODULE_ID]
    found = (columns[Postprocessing.VALUE_TARGETS], columns[Postprocessing.ADVANTAGES], values)
    return tuple(np.split(part.numpy(), ends) for part in found)  # type: ignore[return-value]


def test_lineage_credit_reaches_the_batch(played) -> None:
    targets, _, _ = credited(played, lineage=True, team=0.0)
    for episode, target in zip(played[0], targets, strict=True):
        custom = episode.custom_data
        names = ("validation", "test", "parent", "parent_segment")
        expected = lineage_credit(*(custom[name] for name in names))[custom["segments"], custom["member"]]
        np.testing.assert_allclose(target, expected, rtol=1e-5)


def test_without_lineage_the_rewards_are_paid(played) -> None:
    targets, _, _ = credited(played, lineage=False, group=False, team=0.0, gae_lambda=1.0)
    for episode, target in zip(played[0], targets, strict=True):
        np.testing.assert_allclose(target, np.cumsum(episode.get_rewards()[::-1])[::-1], atol=1e-4)


@pytest.mark.parametrize("lineage", [True, False])
def test_the_groups_mean_is_taken_off(played, lineage: bool) -> None:
    targets, grouped, values = credited(played, lineage=lineage, team=0.0)
    _, plain, _ = credited(played, lineage=lineage, group=False, team=0.0)
    assert np.abs(np.concatenate(grouped)).max() <= 4.0
    later = [advantage[3] for advantage in grouped]
    assert abs(np.mean(later)) < abs(np.mean([advantage[3] for advantage in plain])) + 1e-6
    raw = np.array([target[3] - value[3] for target, value in zip(targets, values, strict=True)])
    if np.abs(later).max() < 4.0:
        assert np.corrcoef(later, raw)[0, 1] > 0.999
        assert abs(np.mean(later)) < 1e-5


def test_the_team_moves_all_of_its_members_alike(played) -> None:
    _, without, _ = credited(played, team=0.0)
    _, with_team, _ = credited(played, team=0.5)
    shifts = [(b - a) for a, b in zip(without, with_team, strict=True)]
    populations = [episode.custom_data["population"] for episode in played[0]]
    for population in (0, 1):
        moved = np.concatenate([s for s, p in zip(shifts, populations, strict=True) if p == population])
        assert np.ptp(moved) < 1e-5
    assert np.sign(shifts[0][0]) == -np.sign(shifts[-1][0])
