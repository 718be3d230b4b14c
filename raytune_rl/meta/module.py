"""The token network as an RLlib module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import nn

from raytune_rl.controller import tokens

CLONE_LOGITS = "clone_logits"
"""What the clone that learning began with would have done: for the KL term that keeps the agent near it."""


class TokenModule(TorchRLModule, ValueFunctionAPI):
    """``controller.tokens`` with torch parameters.

    ``model_config``: ``weights``, a mapping of arrays to start from (default: fresh ones of ``seed``); ``clone``: keep
    a frozen copy of them.
    """

    def setup(self) -> None:
        config = self.model_config
        given = config.get("weights") or tokens.initial_weights(config.get("seed", 0))
        self.parts = nn.ParameterDict({_key(name): nn.Parameter(torch.tensor(value)) for name, value in given.items()})
        lengths = [int(size) for size in self.action_space.nvec]
        self.action_dist_cls = TorchMultiCategorical.get_partial_dist_cls(input_lens=lengths)
        self._clone = {name: torch.tensor(value) for name, value in given.items()} if config.get("clone") else None

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: tokens.policy_logits(self._weights(), batch[Columns.OBS], torch)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        output = self._forward(batch)
        if self._clone is not None:
            with torch.no_grad():
                output[CLONE_LOGITS] = tokens.policy_logits(self._clone, batch[Columns.OBS], torch)
        return output

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        found: torch.Tensor = tokens.values(self._weights(), batch[Columns.OBS], torch)
        return found

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: self.parts[_key(name)] for name in tokens.shapes()}


def numpy_weights(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights in a state of the module."""
    return {name: np.asarray(state[f"parts.{_key(name)}"]) for name in tokens.shapes()}


def _key(name: str) -> str:
    """Torch allows no dots in the names of parameters."""
    return name.replace(".", "_")
