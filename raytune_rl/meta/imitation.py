"""Learning from finished runs: a warm start by advantage-weighted imitation, before the packed worlds."""

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
from raytune_rl.meta.training import common, taught
from raytune_rl.rllib.peers import plain_pipeline
from raytune_rl.rllib.token_learner import CLONE_KL, ClonedMARWILLearner

ANCHOR: Final = 1.0
"""Weight of the KL to what the controller was before: about as much as an average decision's imitation."""


def imitate(recipe: Recipe, weights: Mapping[str, np.ndarray], runs: Sequence[Recorded]) -> dict[str, np.ndarray]:
    """``weights`` after the decisions of finished runs, by RLlib's MARWIL (Wang et al. 2018, section 4).

    What is imitated is what was done, each decision weighted by exp(advantage): its lineage credit (difference credit
    where the ensemble was the objective) over that of the other members at the same segment (and of other runs of the
    same task), in standard deviations. A KL holds the controller to ``weights``, so that a few runs do not make it
    forget. Who decided in them, and how likely they held it, does not matter; a run that decided at random is imitated
    where that went well, and is a weak teacher.
    """
    slots = max([SLOTS, *(run.hyperparameters for run in runs)])
    config: Any = common(PlainMARWILConfig(), recipe, module={"weights": dict(weights), "clone": True}, slots=slots)
    config.training(
        lr=3e-4,
        train_batch_size_per_learner=recipe.minibatch,
        beta=1.0,
        vf_coeff=0.0,  # the critic is no part of these advantages
        moving_average_sqd_adv_norm_start=1.0,
        grad_clip=1.0,
    )
    config.learners(
        learner_class=ClonedMARWILLearner,
        learner_connector=lambda *_: [*plain_pipeline(), MetaAdvantages(team=recipe.team), AdvantagesAsTargets()],
        add_default_connectors_to_learner_pipeline=False,
        learner_config_dict={CLONE_KL: ANCHOR},
    )
    return taught(config, recipe, episodes_of_runs(runs, slots=slots))


class PlainMARWILConfig(MARWILConfig):
    """MARWIL without the pipeline of its own (value targets by GAE), which it would put around any other."""

    def build_learner_connector(self, *arguments: Any, **named: Any) -> Any:
        return AlgorithmConfig.build_learner_connector(self, *arguments, **named)


class AdvantagesAsTargets(ConnectorV2):
    """MARWIL takes value targets less the critic's value as its advantages; this makes those come out as given."""

    def __call__(self, *, rl_module: Any, batch: dict[str, Any], **kwargs: Any) -> Any:
        columns = batch[DEFAULT_MODULE_ID]
        with torch.no_grad():
            values = rl_module[DEFAULT_MODULE_ID].compute_values(columns)
        columns[Postprocessing.VALUE_TARGETS] = columns[Postprocessing.ADVANTAGES] + values
        return batch


def episodes_of_runs(runs: Sequence[Recorded], *, slots: int = SLOTS) -> list[SingleAgentEpisode]:
    """An episode per member, told as those of packed worlds are (``meta.episodes``); a run is a population of its task.

    Runs have no test score per segment, nor their ensembles, so validation stands for it.
    """
    tasks = list(dict.fromkeys(run.task for run in runs))
    found = []
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
        for told in run.members:
            found.append(
                episode(
                    observations=_widened(told.observations, MEMBER + slots * TOKEN, 0.0),
                    actions=_slotted(told.actions, slots),
                    rewards=told.rewards.tolist(),
                    custom={**shared, "member": told.member, "segments": told.segments},
                )
            )
    return found


def _slotted(actions: np.ndarray, slots: int) -> np.ndarray:
    """Actions (T, heads) with empty slots, which stay, before the source."""
    return np.concatenate([_widened(actions[:, :-1], slots, STAY), actions[:, -1:]], axis=1)


def _widened(rows: np.ndarray, width: int, value: float) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=value)
