"""Who is paid for what: two estimates of advantage, as RLlib learner connectors.

*Lineage credit*: a decision is paid for what the weights that descend from it become, through copies, whoever carries
them; a copy that nobody goes on with earns nothing. *Group-relative baseline*: the same task is played by several
populations that differ in their sampled decisions only, and what counts is the difference to the group's mean (the
idea of GRPO, Shao et al. 2024, section 4.1). Both need whole episodes in bulk, which packed worlds give.
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
    """What became of the weights after each segment: validation and test score of the best descendant, by validation.

    All arrays have the shape (segments, members); weights count among their own descendants. Those that a segment
    started from were trained last by ``parent`` in ``parent_segment`` (-1: nobody yet).
    """
    best, paid = validation.copy(), test.copy()
    segments, members = validation.shape
    for segment in range(segments - 1, 0, -1):
        for member in range(members):
            source = (parent_segment[segment, member], parent[segment, member])
            if source[0] >= 0 and best[segment, member] > best[source]:
                best[source], paid[source] = best[segment, member], paid[segment, member]
    return best, paid


def lineage_credit(
    validation: np.ndarray, test: np.ndarray, parent: np.ndarray, parent_segment: np.ndarray
) -> np.ndarray:
    """What every decision was worth, (segments, members): how much better the weights became that it led to.

    First decisions are paid by what they were worth to the population: the founder of the model that would be taken
    gets its lead over the best model of any other founder, all others nothing. A population wants its best start to be
    good, not its mean one; paid for its own result alone, every member would start where the mean is best.
    """
    best, paid = descendants(validation, test, parent, parent_segment)
    credit = paid - np.vstack([np.zeros_like(test[:1]), test[:-1]])
    if test.shape[1] > 1:
        first, second = np.argsort(-best[0], kind="stable")[:2]
        credit[0] = 0.0
        credit[0, first] = paid[0, first] - paid[0, second]
    return credit


def ensemble_credit(contribution: np.ndarray) -> np.ndarray:
    """What every decision was worth to the ensemble, (segments, members): by how much the member's contribution at the
    end is above the one that the decision found (the difference rewards of Wolpert & Tumer 2001, to come; first
    decisions found none). Times the members, so that it does not shrink with the population.

    Args:
        contribution: shape (segments, members), see ``mdp.ensemble_stats``; NaN (a member that went wrong) counts as 0.
    """
    known = np.nan_to_num(contribution, nan=0.0)
    before = np.vstack([np.zeros_like(known[:1]), known[:-1]])
    return np.asarray(known.shape[1] * (known[-1] - before))


def team_score(validation: np.ndarray, test: np.ndarray, ensemble: np.ndarray | None = None) -> float:
    """What the population came to: the test score of its ensemble at the end, where that is told, otherwise of the
    model that would be taken: the best by validation of all times."""
    if ensemble is not None:
        return float(ensemble[-1])
    return float(test.flat[int(validation.argmax())])


class MetaAdvantages(ConnectorV2):
    """Puts advantages and value targets into the train batch; the last piece of the learner's pipeline.

    Args:
        lineage: lineage credit (where the ensemble is the objective: difference credit), with the critic as baseline;
            without it GAE of the rewards.
        group: whether the mean of the task's populations is taken off, segment by segment.
        team: weight of the population's own result, relative to the group's.
        gae_lambda: of GAE, where lineage is 0.
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
            self._returns(episode, part) if not self._lineage else credits[_population(episode)][_place(episode)]
            for episode, part in zip(episodes, parts, strict=True)
        ]
        advantages = [target - part for target, part in zip(targets, parts, strict=True)]
        advantages = _relative(episodes, advantages, group=self._group)
        if self._team:
            team = _team(episodes)
            advantages = [a + self._team * t for a, t in zip(advantages, team, strict=True)]
        device = columns[Columns.OBS].device
        for name, rows in ((Postprocessing.ADVANTAGES, advantages), (Postprocessing.VALUE_TARGETS, targets)):
            columns[name] = torch.as_tensor(np.concatenate(rows), dtype=torch.float32, device=device)
        return batch

    def _returns(self, episode: SingleAgentEpisode, values: np.ndarray) -> np.ndarray:
        """The lambda returns of the rewards, of a whole episode."""
        over = np.zeros(len(values))
        over[-1] = 1.0
        rewards = np.asarray(episode.get_rewards(), dtype=np.float32)
        found: np.ndarray = compute_value_targets(values, rewards, over, np.zeros(len(values)), 1.0, self._lambda)
        return found


def _population(episode: SingleAgentEpisode) -> tuple[int, int]:
    return episode.custom_data["task"], episode.custom_data["population"]


def _place(episode: SingleAgentEpisode) -> tuple[np.ndarray, int]:
    """Where an episode's decisions are in arrays (segments, members)."""
    return episode.custom_data["segments"], episode.custom_data["member"]


def _credits(episodes: Sequence[SingleAgentEpisode]) -> dict[tuple[int, int], np.ndarray]:
    """The credit of each population, worked out once for all of its members."""
    names = ("validation", "test", "parent", "parent_segment")
    first = {_population(episode): episode.custom_data for episode in episodes}
    return {
        key: ensemble_credit(custom["contribution"])
        if "contribution" in custom
        else lineage_credit(*(custom[name] for name in names))
        for key, custom in first.items()
    }


def _relative(
    episodes: Sequence[SingleAgentEpisode], advantages: Sequence[np.ndarray], *, group: bool
) -> list[np.ndarray]:
    """Less the mean of the same task and segment, over the spread within the task (of first decisions apart)."""
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for episode, part in zip(episodes, advantages, strict=True):
        for segment, value in zip(episode.custom_data["segments"], part, strict=True):
            cells[episode.custom_data["task"], int(segment)].append(float(value))
    means = {cell: float(np.mean(found)) if group else 0.0 for cell, found in cells.items()}
    spreads: dict[tuple[int, bool], list[float]] = defaultdict(list)
    for (task, segment), found in cells.items():
        spreads[task, segment == 0] += [value - means[task, segment] for value in found]
    scale = {task: float(np.sqrt(np.mean(np.square(found)))) + 0.05 for task, found in spreads.items()}
    result = []
    for episode, part in zip(episodes, advantages, strict=True):
        task = episode.custom_data["task"]
        mean = np.array([means[task, int(segment)] for segment in episode.custom_data["segments"]])
        spread = np.array([scale[task, segment == 0] for segment in episode.custom_data["segments"]])
        result.append(np.clip((part - mean) / spread, -4.0, 4.0))
    return result


def _team(episodes: Sequence[SingleAgentEpisode]) -> list[float]:
    """Each episode's population against the others of its task, in standard deviations."""
    scores: dict[int, dict[int, float]] = defaultdict(dict)
    for (task, population), custom in {_population(episode): episode.custom_data for episode in episodes}.items():
        scores[task][population] = team_score(custom["validation"], custom["test"], custom.get("ensemble"))
    found = []
    for task, population in map(_population, episodes):
        group = np.array(list(scores[task].values()))
        found.append(float(np.clip((scores[task][population] - group.mean()) / (group.std() + 0.03), -3.0, 3.0)))
    return found
