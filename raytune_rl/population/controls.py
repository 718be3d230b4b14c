"""The live objects of a member that hyperparameters act on: values are written in place, and read back for tables."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping

from torch import nn

from raytune_rl.population.evaluation import Loss
from raytune_rl.population.networks import Built, freeze
from raytune_rl.population.optimisers import Optimizer, get_momentum, set_momentum
from raytune_rl.population.places import Place, loss_setting
from raytune_rl.records import Value


class Controls:
    """Network, optimiser, training loss, batch size, clipping and strength of augmentation of one member.

    Args:
        places: where each hyperparameter takes effect.
        start: values of the hyperparameters that take effect at the start only; ``read`` returns them unchanged.
        examples: the number of training examples.
        batch_size: examples per step, at most ``examples``.
        grad_clip: largest gradient norm (L2, over all parameters); 0 switches clipping off.
        augmentation: the strength; 0 = batches are not changed.
    """

    def __init__(
        self,
        *,
        places: Mapping[str, Place],
        start: Mapping[str, Value],
        built: Built,
        optimizer: Optimizer,
        loss: Loss,
        examples: int,
        batch_size: int,
        grad_clip: float,
        augmentation: float,
    ) -> None:
        self.network = built.network
        self.optimizer = optimizer
        # a copy, since hyperparameters may change it, and validation uses the loss as given
        self.loss: Loss = copy.deepcopy(loss) if isinstance(loss, nn.Module) else functools.partial(loss)
        self.batch_size = min(batch_size, examples)
        self.grad_clip = grad_clip
        self.augmentation = augmentation
        self.frozen_layers = 0
        self.start = start
        self.fixed = built.fixed
        self.dropout = built.dropout
        self._places = places
        self._examples = examples

    def write(self, name: str, value: Value) -> None:
        """Change one hyperparameter in place; no effect on those that take effect at the start only."""
        groups = self.optimizer.param_groups
        match self._places[name]:
            case "learning_rate":
                for group in groups:
                    group["lr"] = float(value)
            case "weight_decay":
                for group in groups:
                    group["weight_decay"] = float(value)
            case "momentum":
                for group in groups:
                    set_momentum(group, float(value))
            case "batch_size":
                self.batch_size = min(max(round(float(value)), 1), self._examples)
            case "grad_clip":
                self.grad_clip = float(value)
            case "augmentation":
                self.augmentation = float(value)
            case "dropout":
                for module, attribute in self.dropout[name]:
                    setattr(module, attribute, float(value))
            case "frozen_layers":
                self.frozen_layers = freeze(self.network, round(float(value)), fixed=self.fixed)
            case "loss" | "label_smoothing" as place:
                setting = loss_setting(name, place, self.loss)
                if isinstance(self.loss, functools.partial):
                    self.loss = functools.partial(self.loss, **{setting: value})
                else:
                    setattr(self.loss, setting, value)
            case "network" | "initialisation":
                pass

    def read(self, name: str) -> Value:
        """The value in force."""
        group = self.optimizer.param_groups[0]
        match self._places[name]:
            case "learning_rate":
                return float(group["lr"])
            case "weight_decay":
                return float(group["weight_decay"])
            case "momentum":
                return get_momentum(group)
            case "batch_size":
                return self.batch_size
            case "grad_clip":
                return self.grad_clip
            case "augmentation":
                return self.augmentation
            case "dropout":
                module, attribute = self.dropout[name][0]
                return float(getattr(module, attribute))
            case "frozen_layers":
                return self.frozen_layers
            case "loss" | "label_smoothing" as place:
                setting = loss_setting(name, place, self.loss)
                value: Value = (
                    self.loss.keywords[setting]
                    if isinstance(self.loss, functools.partial)
                    else getattr(self.loss, setting)
                )
                return value
            case "network" | "initialisation":
                return self.start[name]
