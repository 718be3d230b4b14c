"""Learning from finished runs: a warm start by advantage-weighted imitation, before training in packed worlds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing

from raytune_rl.controller.tokens import MEMBER, TOKEN
from raytune_rl.hyperparameters import STAY
from raytune_rl.meta.advantages import MetaAdvantages
from raytune_rl.meta.episodes import LOWEST, SLOTS, episode
from raytune_rl.meta.from_runs import Recorded
from raytune_rl.meta.recipe import Recipe
from raytune_rl.meta.training import common, train_on
from raytune_rl.rllib.peers import plain_pipeline
from raytune_rl.rllib.token_learner import CLONE_KL, ClonedMARWILLearner

ANCHOR: Final = 1.0
"""Weight of the KL divergence from the initial controller: about that of imitating an average decision."""


def imitate(recipe: Recipe, weights: Mapping[str, np.ndarray], runs: Sequence[Recorded]) -> dict[str, np.ndarray]:
    """``weights`` after imitating the decisions of finished runs, by RLlib's MARWIL (Wang et al. 2018, section 4).

    Each decision is imitated with the weight exp(advantage). The advantage is its lineage credit (``ensemble_credit``
    if the ensemble was the objective) relative to the other members in the same segment, including those of other runs
    of the same task, in standard deviations. A KL divergence keeps the controller near ``weights``, so that it does not
    forget everything else because of a few runs. It does not matter which policy decided, or with what probability:
    random decisions are imitated where they turned out well, although little can be learned from them.
    """
    slots = max([SLOTS, *(run.hyperparameters for run in runs)])
    config: Any = common(PlainMARWILConfig(), recipe, module={"weights": dict(weights), "clone": True}, slots=slots)
    config.training(
        lr=3e-4,
        train_batch_size_per_learner=recipe.minibatch,
        beta=1.0,
        vf_coeff=0.0,  # these advantages do not need a critic
        moving_average_sqd_adv_norm_start=1.0,
        grad_clip=1.0,
    )
    config.learners(
        learner_class=ClonedMARWILLearner,
        learner_connector=lambda *_: [*plain_pipeline(), MetaAdvantages(team=recipe.team), AdvantagesAsTargets()],
        add_default_connectors_to_learner_pipeline=False,
        learner_config_dict={CLONE_KL: ANCHOR},
    )
    return train_on(config, recipe, episodes_of_runs(runs, slots=slots))


class PlainMARWILConfig(MARWILConfig):
    """MARWIL without its own connectors (value targets by GAE), which it would add to any given pipeline."""

    def build_learner_connector(self, *arguments: Any, **named: Any) -> Any:
        return AlgorithmConfig.build_learner_connector(self, *arguments, **named)


class AdvantagesAsTargets(ConnectorV2):
    """Sets value targets such that MARWIL, which subtracts the critic's values from them, gets the given advantages."""

    def __call__(self, *, rl_module: Any, batch: dict[str, Any], **kwargs: Any) -> Any:
        columns = batch[DEFAULT_MODULE_ID]
        with torch.no_grad():
            values = rl_module[DEFAULT_MODULE_ID].compute_values(columns)
        columns[Postprocessing.VALUE_TARGETS] = columns[Postprocessing.ADVANTAGES] + values
        return batch


def episodes_of_runs(runs: Sequence[Recorded], *, slots: int = SLOTS) -> list[SingleAgentEpisode]:
    """One episode per member, in the form of those from packed worlds (``meta.episodes``). A run is a population of its
    task.

    Runs have no test scores per segment, neither of members nor of ensembles, so validation scores take their place.
    """
    tasks = list(dict.fromkeys(run.task for run in runs))
    episodes = []
    for population, run in enumerate(runs):
        scores = np.maximum(run.validation, LOWEST)
        shared = {
            "task": tasks.index(run.task),
            "population": population,
            "validation": scores,
            "test": scores,
            "parent": run.parent,
            "parent_segment": run.parent_segment,
            **({} if run.team is None else {"contribution": run.team.contribution, "ensemble": run.team.score}),
        }
        for decisions in run.members:
            episodes.append(
                episode(
                    observations=_padded(decisions.observations, MEMBER + slots * TOKEN, 0.0),
                    actions=_padded_actions(decisions.actions, slots),
                    rewards=decisions.rewards.tolist(),
                    custom={**shared, "member": decisions.member, "segments": decisions.segments},
                )
            )
    return episodes


def _padded_actions(actions: np.ndarray, slots: int) -> np.ndarray:
    """Actions (T, heads) with a head for each of ``slots`` hyperparameters, then the source; empty slots stay."""
    return np.concatenate([_padded(actions[:, :-1], slots, STAY), actions[:, -1:]], axis=1)


def _padded(rows: np.ndarray, width: int, value: float) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=value)
