"""RLlib's learners with a KL term that keeps the agent near its starting weights, in place of an entropy bonus."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.marwil.torch.marwil_torch_learner import MARWILTorchLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from raytune_rl.rllib.token_module import CLONE_LOGITS

CLONE_KL = "clone_kl"
"""Key of ``learner_config_dict``: weight of KL(agent || clone)."""

MIN_LOGIT = -60.0
"""Lower bound of the logits in the divergence: a probability of 0 in float32 would make it infinite."""


class _Cloned(TorchLearner):
    """Another learner's loss and the weighted KL."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Any:
        loss = super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        weight = config.learner_config_dict.get(CLONE_KL, 0.0)
        if not weight or CLONE_LOGITS not in batch:
            return loss
        distributions = self.module[module_id].unwrapped().get_train_action_dist_cls()
        divergence = divergence_from(batch[CLONE_LOGITS], fwd_out["action_dist_inputs"], distributions)
        self.metrics.log_value((module_id, CLONE_KL), divergence, window=1)
        return loss + weight * divergence


def divergence_from(clone: torch.Tensor, logits: torch.Tensor, distributions: Any) -> torch.Tensor:
    """The mean KL(agent || clone) of action distributions with ``logits`` and ``clone`` logits, (N, options) each.

    It is finite, and so is its gradient. ``distributions``: RLlib's class for the action space.
    """
    agent_distribution, clone_distribution = (
        distributions.from_logits(given.clamp(min=MIN_LOGIT)) for given in (logits, clone)
    )
    divergence: torch.Tensor = torch.mean(agent_distribution.kl(clone_distribution))
    return divergence


class ClonedPPOLearner(_Cloned, PPOTorchLearner):
    """PPO's loss and the weighted KL."""


class ClonedMARWILLearner(_Cloned, MARWILTorchLearner):
    """MARWIL's loss and the weighted KL."""
