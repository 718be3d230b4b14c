"""The token network as an RLlib module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import nn

from raytune_rl.controller import tokens
from raytune_rl.hyperparameters import LEVELS
from raytune_rl.mdp.action import SOURCES
from raytune_rl.rllib.tokens import fitted, part

CLONE_LOGITS = "clone_logits"
"""Column of a train batch: the logits of the starting weights (the clone), for the KL term that keeps the agent near
them."""


class TokenModule(TorchRLModule, ValueFunctionAPI):
    """``controller.tokens`` with torch parameters, for any number of hyperparameters: the spaces say how many.

    ``model_config``: ``weights``, a mapping of arrays to start from (default: fresh ones of ``seed``); ``clone``: keep
    a frozen copy of them; ``hyperparameters``: how many of the observation's slots hold one (default: all).
    """

    def setup(self) -> None:
        config = self.model_config
        given = config.get("weights") or tokens.initial_weights(config.get("seed", 0))
        self.parts = nn.ParameterDict({part(name): nn.Parameter(torch.tensor(value)) for name, value in given.items()})
        lengths = self._lengths = [int(size) for size in self.action_space.nvec]
        self.action_dist_cls = TorchMultiCategorical.get_partial_dist_cls(input_lens=lengths)
        if config.get("clone"):  # as buffers, which move with the parameters; not persistent, so no part of the state
            for name, value in given.items():
                self.register_buffer(_clone(name), torch.tensor(value), persistent=False)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self._logits(self._weights(), batch)}

    def clone_logits(self, batch: dict[str, Any]) -> torch.Tensor | None:
        """The clone's logits; ``None`` where no clone is kept."""
        if not self.model_config.get("clone"):
            return None
        with torch.no_grad():
            return self._logits({name: self.get_buffer(_clone(name)) for name in tokens.shapes()}, batch)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        values: torch.Tensor = tokens.values(self._weights(), batch[Columns.OBS], torch)
        return values

    def _logits(self, weights: dict[str, torch.Tensor], batch: dict[str, Any]) -> torch.Tensor:
        logits = tokens.policy_logits(weights, batch[Columns.OBS], torch)
        count = self.model_config.get("hyperparameters", (logits.shape[1] - len(SOURCES)) // LEVELS)
        action_logits: torch.Tensor = fitted(logits, count, self._lengths, torch)
        return action_logits

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: self.parts[part(name)] for name in tokens.shapes()}


class CloneLogits(ConnectorV2):
    """Adds the clone's logits to the train batch, once for all epochs."""

    def __call__(self, *, rl_module: Any, batch: dict[str, Any], episodes: Sequence[Any], **kwargs: Any) -> Any:
        columns = batch[DEFAULT_MODULE_ID]
        logits = rl_module[DEFAULT_MODULE_ID].unwrapped().clone_logits(columns)
        if logits is not None:
            columns[CLONE_LOGITS] = logits
        return batch


def _clone(name: str) -> str:
    return f"clone_{part(name)}"
