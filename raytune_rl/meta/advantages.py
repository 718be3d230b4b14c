"""Advantages for meta-training, as an RLlib learner connector: two ideas about which decision earned what.

*Lineage credit*: a decision is credited with what the weights that descend from it become, through copies and in
whichever member. A copy from which nobody continues earns nothing. *Group-relative baseline*: several populations,
which differ only in their sampled decisions, play the same task; what counts is the difference from the group's mean
(the idea of GRPO, Shao et al. 2024, section 4.1). Both need many whole episodes, which packed worlds provide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets


def descendants(
    validation: np.ndarray, test: np.ndarray, parent: np.ndarray, parent_segment: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Validation and test score of the best descendant, by validation, of the weights after each segment.

    All arrays have the shape (segments, members). Weights count among their own descendants. The weights that a segment
    started from had been trained last by ``parent`` in ``parent_segment`` (-1: they were initial weights).
    """
    best, best_test = validation.copy(), test.copy()
    segments, members = validation.shape
    for segment in range(segments - 1, 0, -1):
        for member in range(members):
            source = (parent_segment[segment, member], parent[segment, member])
            if source[0] >= 0 and best[segment, member] > best[source]:
                best[source], best_test[source] = best[segment, member], best_test[segment, member]
    return best, best_test


def lineage_credit(
    validation: np.ndarray, test: np.ndarray, parent: np.ndarray, parent_segment: np.ndarray
) -> np.ndarray:
    """The credit of every decision, (segments, members): how much better the weights became that descend from it.

    Arguments are those of ``descendants``. First decisions get their value for the population: the member whose initial
    weights led to the best model gets that model's lead over the best one of any other member's; all others get 0. A
    population needs a good best start, not a good average one. With credit for their own results only, all members
    would start where the average is best.
    """
    best, best_test = descendants(validation, test, parent, parent_segment)
    credit = best_test - np.vstack([np.zeros_like(test[:1]), test[:-1]])
    if test.shape[1] > 1:
        first, second = np.argsort(-best[0], kind="stable")[:2]
        credit[0] = 0.0
        credit[0, first] = best_test[0, first] - best_test[0, second]
    return credit


def ensemble_credit(contribution: np.ndarray) -> np.ndarray:
    """The credit of every decision where the ensemble is the objective, (segments, members).

    It is the member's contribution at the end minus its contribution before the decision (0 before first decisions):
    the sum of the difference rewards (Wolpert & Tumer 2001) from then on. It is multiplied by the number of members, so
    that it does not shrink with larger populations.

    Args:
        contribution: shape (segments, members), see ``mdp.ensemble_stats``; NaN (a failed member) counts as 0.
    """
    known = np.nan_to_num(contribution, nan=0.0)
    before = np.vstack([np.zeros_like(known[:1]), known[:-1]])
    return np.asarray(known.shape[1] * (known[-1] - before))


def team_score(validation: np.ndarray, test: np.ndarray, ensemble: np.ndarray | None = None) -> float:
    """The result of a population: the final test score of its ``ensemble`` (segments,), if given, or else the test
    score of its best model at any time, by validation."""
    if ensemble is not None:
        return float(ensemble[-1])
    return float(test.flat[int(validation.argmax())])


class MetaAdvantages(ConnectorV2):
    """Puts advantages and value targets into the train batch; the last connector in the learner's pipeline.

    Args:
        lineage: use lineage credit (``ensemble_credit`` if the ensemble is the objective), with the critic as baseline;
            if false, GAE of the rewards.
        group: whether the mean over the task's populations is subtracted, segment by segment.
        team: weight of the population's result relative to the other populations of its task.
        gae_lambda: lambda of GAE, used if ``lineage`` is false.
    """

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        lineage: bool = True,
        group: bool = True,
        team: float = 0.5,
        gae_lambda: float = 0.95,
    ) -> None:
        super().__init__(input_observation_space, input_action_space)
        self._lineage, self._group, self._team, self._lambda = lineage, group, team, gae_lambda

    def __call__(self, *, rl_module: Any, batch: dict[str, Any], episodes: Sequence[Any], **kwargs: Any) -> Any:
        columns = batch[DEFAULT_MODULE_ID]
        with torch.no_grad():
            values = rl_module[DEFAULT_MODULE_ID].compute_values(columns).cpu().numpy()
        ends = np.cumsum([len(episode) for episode in episodes])
        parts = np.split(values, ends[:-1])
        credits = _credits(episodes) if self._lineage else {}
        targets = [
            self._returns(episode, part) if not self._lineage else credits[_population(episode)][_indices(episode)]
            for episode, part in zip(episodes, parts, strict=True)
        ]
        advantages = [target - part for target, part in zip(targets, parts, strict=True)]
        advantages = _normalised(episodes, advantages, group=self._group)
        if self._team:
            team = _team_advantages(episodes)
            advantages = [a + self._team * t for a, t in zip(advantages, team, strict=True)]
        device = columns[Columns.OBS].device
        for name, rows in ((Postprocessing.ADVANTAGES, advantages), (Postprocessing.VALUE_TARGETS, targets)):
            columns[name] = torch.as_tensor(np.concatenate(rows), dtype=torch.float32, device=device)
        return batch

    def _returns(self, episode: SingleAgentEpisode, values: np.ndarray) -> np.ndarray:
        """The lambda returns of a whole episode's rewards."""
        over = np.zeros(len(values))
        over[-1] = 1.0
        rewards = np.asarray(episode.get_rewards(), dtype=np.float32)
        returns: np.ndarray = compute_value_targets(values, rewards, over, np.zeros(len(values)), 1.0, self._lambda)
        return returns


def _population(episode: SingleAgentEpisode) -> tuple[int, int]:
    """The task and the population in it that an episode belongs to."""
    return episode.custom_data["task"], episode.custom_data["population"]


def _indices(episode: SingleAgentEpisode) -> tuple[np.ndarray, int]:
    """The indices of an episode's decisions in arrays of shape (segments, members)."""
    return episode.custom_data["segments"], episode.custom_data["member"]


def _credits(episodes: Sequence[SingleAgentEpisode]) -> dict[tuple[int, int], np.ndarray]:
    """The credit (segments, members) of each population, computed once for all of its members."""
    names = ("validation", "test", "parent", "parent_segment")
    first = {_population(episode): episode.custom_data for episode in episodes}
    return {
        key: ensemble_credit(custom["contribution"])
        if "contribution" in custom
        else lineage_credit(*(custom[name] for name in names))
        for key, custom in first.items()
    }


def _normalised(
    episodes: Sequence[SingleAgentEpisode], advantages: Sequence[np.ndarray], *, group: bool
) -> list[np.ndarray]:
    """Advantages divided by their spread within the task, separately for first decisions, and clipped to [-4, 4].

    With ``group``, the mean of the same task and segment is subtracted first.
    """
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for episode, part in zip(episodes, advantages, strict=True):
        for segment, value in zip(episode.custom_data["segments"], part, strict=True):
            cells[episode.custom_data["task"], int(segment)].append(float(value))
    means = {cell: float(np.mean(in_cell)) if group else 0.0 for cell, in_cell in cells.items()}
    deviations: dict[tuple[int, bool], list[float]] = defaultdict(list)
    for (task, segment), in_cell in cells.items():
        deviations[task, segment == 0] += [value - means[task, segment] for value in in_cell]
    # The constant keeps tiny differences from being scaled up.
    spreads = {key: float(np.sqrt(np.mean(np.square(in_task)))) + 0.05 for key, in_task in deviations.items()}
    result = []
    for episode, part in zip(episodes, advantages, strict=True):
        task = episode.custom_data["task"]
        mean = np.array([means[task, int(segment)] for segment in episode.custom_data["segments"]])
        spread = np.array([spreads[task, segment == 0] for segment in episode.custom_data["segments"]])
        result.append(np.clip((part - mean) / spread, -4.0, 4.0))
    return result


def _team_advantages(episodes: Sequence[SingleAgentEpisode]) -> list[float]:
    """For each episode the score of its population against the mean of its task, in standard deviations, clipped."""
    scores: dict[int, dict[int, float]] = defaultdict(dict)
    for (task, population), custom in {_population(episode): episode.custom_data for episode in episodes}.items():
        scores[task][population] = team_score(custom["validation"], custom["test"], custom.get("ensemble"))
    advantages = []
    for task, population in map(_population, episodes):
        group = np.array(list(scores[task].values()))
        advantages.append(float(np.clip((scores[task][population] - group.mean()) / (group.std() + 0.03), -3.0, 3.0)))
    return advantages
