"""DQN's network when heads of different size share one discrete action space.

Options that a head does not have get a Q-value far below any real one, so that neither acting nor the learner's target
ever picks them. RLlib's default module is used for everything else.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_PREDS
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.core.columns import Columns

IMPOSSIBLE = -1e6


class MaskedDQNModule(DefaultDQNTorchRLModule):
    """Reads the head from the one-hot in the observation (``spaces.Sequential``) and masks options it does not have."""

    NVEC = "raytune_rl_nvec"
    """Key of the model config: number of options per head."""

    def setup(self) -> None:
        super().setup()
        nvec = self.model_config[self.NVEC]
        # Not a torch buffer: it must not be saved or sent with the weights.
        self._missing = torch.tensor([[option >= size for option in range(max(nvec))] for size in nvec])

    def _qf_forward_helper(self, batch: dict[str, Any], encoder: Any, head: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._qf_forward_helper(batch, encoder, head)
        observations = batch[Columns.OBS]
        heads = len(self._missing)
        one_hot = observations[..., -2 * heads : -heads]
        missing = self._missing.to(observations.device)[one_hot.argmax(dim=-1)]
        output[QF_PREDS] = output[QF_PREDS].masked_fill(missing, IMPOSSIBLE)
        return output
