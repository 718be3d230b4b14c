"""Advantages relative to the other members of the population, for learning within one run.

In one run the rewards depend more on the task and the time than on the decisions: early segments gain much, late ones
little. The members of a population train on the same task at the same time, so the mean over them is a baseline that no
critic has to learn first (the group-relative advantage of GRPO, Shao et al. 2024, section 4.1.1, applied to generalised
advantage estimates, Schulman et al. 2016, eq. 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.learner import (
    AddColumnsFromEpisodesToTrainBatch,
    AddObservationsFromEpisodesToBatch,
    BatchIndividualItems,
    NumpyToTensor,
)
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

from raytune_rl.rllib.feed import SEGMENTS

CLIP = 3.0
"""Limit of an advantage, in standard deviations: a single outlier must not dominate the update."""


def plain_pipeline() -> list[ConnectorV2]:
    """The connectors from episodes to a train batch without advantages; one that adds those must follow."""
    return [
        AddObservationsFromEpisodesToBatch(as_learner_connector=True),
        AddColumnsFromEpisodesToTrainBatch(),
        BatchIndividualItems(multi_agent=False),
        NumpyToTensor(as_learner_connector=True),
    ]


class PeerAdvantages(ConnectorV2):
    """Adds advantages and value targets to the train batch; the last connector of the learner's pipeline.

    Args:
        gamma: discount per segment.
        gae_lambda: of the generalised advantages.
    """

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        gamma: float,
        gae_lambda: float = 0.95,
    ) -> None:
        super().__init__(input_observation_space, input_action_space)
        self._gamma, self._lambda = gamma, gae_lambda

    def __call__(self, *, rl_module: Any, batch: dict[str, Any], episodes: Sequence[Any], **kwargs: Any) -> Any:
        columns = batch[DEFAULT_MODULE_ID]
        module, device = rl_module[DEFAULT_MODULE_ID], columns[Columns.OBS].device
        lasts = np.stack([episode.get_observations(-1) for episode in episodes])
        with torch.no_grad():
            values = module.compute_values(columns).cpu().numpy()
            after = module.compute_values({Columns.OBS: torch.as_tensor(lasts, device=device)}).cpu().numpy()
        parts = np.split(values, np.cumsum([len(episode) for episode in episodes])[:-1])
        targets = np.concatenate([self._returns(*of) for of in zip(episodes, parts, after, strict=True)])
        segments = np.concatenate([episode.custom_data[SEGMENTS] for episode in episodes])
        for name, rows in (
            (Postprocessing.ADVANTAGES, relative(targets - values, segments)),
            (Postprocessing.VALUE_TARGETS, targets),
        ):
            columns[name] = torch.as_tensor(rows, dtype=torch.float32, device=device)
        return batch

    def _returns(self, episode: SingleAgentEpisode, values: np.ndarray, after: float) -> np.ndarray:
        """Lambda returns of a piece of an episode; ``after`` is the value of its last observation."""
        over = np.zeros(len(values) + 1)
        over[-2:] = 1.0  # the last entry only holds ``after``, and no advantage flows back from it
        ended = np.zeros(len(values) + 1)
        ended[-2] = episode.is_terminated
        rewards = np.append(np.asarray(episode.get_rewards(), dtype=np.float32), 0.0)
        targets: np.ndarray = compute_value_targets(
            np.append(values, after), rewards, ended, over, self._gamma, self._lambda
        )
        return targets[:-1]


def relative(advantages: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Advantages (N,) less the mean of their segment (``segments``, (N,)), in standard deviations of these differences.

    A decision without others at the same segment gets 0.
    """
    _, which = np.unique(segments, return_inverse=True)
    differences = advantages - (np.bincount(which, advantages) / np.bincount(which))[which]
    return np.asarray(np.clip(differences / (differences.std() + 1e-3), -CLIP, CLIP))
