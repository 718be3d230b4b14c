"""What a decision was worth beside those of the other members: advantages for learning within one run.

A run is one task, so its rewards say more about the task and the time than about decisions: early segments gain much,
late ones little, whoever decides. The members of a population face the same task at the same time, so their mean is a
baseline that no critic has to learn first (the group-relative advantage of GRPO, Shao et al. 2024, section 4.1.1, over
generalised advantages, Schulman et al. 2016, eq. 16).
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
"""Advantages, in standard deviations: one lucky or wrecked member must not decide where all go."""


def plain_pipeline() -> list[ConnectorV2]:
    """From episodes to a batch, as they are; what gives advantages comes after it."""
    return [
        AddObservationsFromEpisodesToBatch(as_learner_connector=True),
        AddColumnsFromEpisodesToTrainBatch(),
        BatchIndividualItems(multi_agent=False),
        NumpyToTensor(as_learner_connector=True),
    ]


class PeerAdvantages(ConnectorV2):
    """Puts advantages and value targets into the train batch; the last piece of the learner's pipeline.

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
        """Lambda returns of a piece of an episode; what follows an open end is worth ``after``."""
        over = np.zeros(len(values) + 1)
        over[-2:] = 1.0  # nothing is carried back from the step that only holds ``after``
        ended = np.zeros(len(values) + 1)
        ended[-2] = episode.is_terminated
        rewards = np.append(np.asarray(episode.get_rewards(), dtype=np.float32), 0.0)
        found: np.ndarray = compute_value_targets(
            np.append(values, after), rewards, ended, over, self._gamma, self._lambda
        )
        return found[:-1]


def relative(advantages: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Advantages (N,) less the mean of their segment (N,), in standard deviations of what is left.

    A decision that nobody else made at that segment has no peers, and counts for nothing.
    """
    _, which = np.unique(segments, return_inverse=True)
    apart = advantages - (np.bincount(which, advantages) / np.bincount(which))[which]
    return np.asarray(np.clip(apart / (apart.std() + 1e-3), -CLIP, CLIP))
