"""The declarative torch task: say what the network, the data and the loss are, and the package trains it.

Imports no torch, so that ``raytune_rl`` stays light; the work is in ``torch_member.py``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from raytune_rl.errors import BadInput
from raytune_rl.population.candidate import Member, MemberContext, Pack, State
from raytune_rl.population.places import START_ONLY, Place, loss_settings, network_arguments, place_of
from raytune_rl.records import Value

if TYPE_CHECKING:
    from torch import nn

    from raytune_rl.combining.contribution import EvaluationTargets
    from raytune_rl.combining.losses import Kind
    from raytune_rl.population.augmentations import Augment
    from raytune_rl.population.evaluation import Loss, Metric
    from raytune_rl.population.optimisers import OptimizerFactory, OptimizerName
    from raytune_rl.population.predictions import Sample
    from raytune_rl.population.splits import DataSource, Split

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, eq=False)
class TorchTask:
    """A network, its data and its loss, trained with whatever hyperparameters the experiment names.

    What a hyperparameter changes follows from its role (``roles``), or without one from its name:

    ====================  =====================================================================================
    role or name          what it changes
    ====================  =====================================================================================
    ``learning_rate``     of the optimiser; also ``lr``
    ``weight_decay``      of the optimiser; also ``wd``
    ``momentum``          SGD's momentum, the first beta of Adam; also ``beta1``
    ``batch_size``        examples per step, at most the size of the train split
    ``grad_clip``         largest L2 norm of the gradient; 0 = none
    ``dropout``           the dropout layers that follow the network's argument of this name, else all of them
    ``label_smoothing``   of the loss
    ``frozen_layers``     leading layers that do not train (the network's children with parameters); never all
    ``augmentation``      the strength that ``augment`` is called with; 0 = not called
    ``initialisation``    start only: ``default``, ``xavier``, ``kaiming``, ``orthogonal``, or a gain (a number)
    network argument      start only: passed to ``network``
    setting of the loss   numeric attribute of a loss module, keyword of a loss function
    ====================  =====================================================================================

    A member reports ``validation_loss``, ``validation_<metric>`` and ``train_loss``; validation always uses the loss as
    given here, whatever label smoothing it trains with. Random numbers depend on the member's seed only: the same seed
    gives the same results, bit for bit, on the CPU with the same version of torch and number of threads.

    Args:
        network: called with the hyperparameters that it has parameters for; its other parameters need defaults.
        data: called once per process, returns (train, validation, test), each a pair (inputs, targets) of arrays or
            tensors with one row per example, or a torch ``Dataset``; test may be ``None``. Float arrays become
            float32, integers int64.
        loss: a module or a function of (outputs, targets), the mean over the examples.
        metrics: functions of (outputs, targets) of a whole split, by name. Default: accuracy if the task is a
            classification (integer targets and the classes in dimension 1, or ``BCEWithLogitsLoss``), otherwise none.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"``, or a function that makes an optimiser of the parameters.
        batch_size, learning_rate, weight_decay, momentum, grad_clip, augmentation: used if no hyperparameter sets them.
        augment: changes the inputs of training batches (and of no others): a function of (inputs (B, ...), strength,
            generator); ``population/augmentations.py`` has ready-made ones. All its random numbers must come from the
            generator (a ``torch.Generator`` on the inputs' device).
        precision: of the network's arithmetic, by torch's automatic mixed precision: ``"float32"`` (none),
            ``"bfloat16"``, or ``"float16"`` (losses are scaled, so that small gradients survive). Weights, optimiser
            and metrics stay float32.
        packed: whether members that share a trial may train as one program (``population/packed``), which is much
            faster for small networks. Batches are the same, and so are results, except for rounding and the random
            numbers of dropout. Members that cannot be packed train one after the other, and the log says why.
        roles: role by hyperparameter; filled in by ``Experiment``.
        predictions: whether members report predictions, which judging the ensemble needs; set by ``Experiment``.
        ensemble_kind: ``Ensemble.kind``, so that predictions are judged as the ensemble is; set by ``Experiment``.

    Raises:
        BadInput: (a ``ValueError``) an argument is not what it should be.
    """

    network: Callable[..., nn.Module]
    data: DataSource
    _: KW_ONLY
    loss: Loss
    metrics: Mapping[str, Metric] | None = None
    optimizer: OptimizerName | OptimizerFactory = "adam"
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    grad_clip: float = 0.0
    augment: Augment | None = None
    augmentation: float = 0.0
    precision: Precision = "float32"
    packed: bool = True
    roles: Mapping[str, str] = field(default_factory=dict)
    predictions: bool = False
    ensemble_kind: Kind | None = None

    def __post_init__(self) -> None:
        for name in ("network", "data", "loss"):
            if not callable(getattr(self, name)):
                raise BadInput(f"TorchTask: {name} must be a function, not {type(getattr(self, name)).__name__}.")
        if hasattr(self.network, "forward") and not isinstance(self.network, type):
            raise BadInput("TorchTask: network must be a function that makes a network, not a network itself.")
        if isinstance(self.loss, type):
            raise BadInput(f"TorchTask: loss must be called to be used: {self.loss.__name__}().")
        if isinstance(self.optimizer, str) and self.optimizer not in ("adam", "adamw", "sgd"):
            raise BadInput(
                f"TorchTask: optimizer must be 'adam', 'adamw', 'sgd' or a function, not {self.optimizer!r}."
            )
        if self.precision not in get_args(Precision):
            raise BadInput(f"TorchTask: precision must be 'float32', 'bfloat16' or 'float16', not {self.precision!r}.")
        if self.batch_size < 1:
            raise BadInput(f"TorchTask: batch_size must be at least 1, not {self.batch_size}.")
        if self.augment is not None:
            _check_augment(self.augment)
        if not 0 <= self.augmentation < math.inf:
            raise BadInput(f"TorchTask: augmentation must be a number of at least 0, not {self.augmentation!r}.")
        if self.augmentation > 0 and self.augment is None:
            raise BadInput(f"TorchTask: augmentation is {self.augmentation}, the strength of an augment; give one.")
        for metric, function in (self.metrics or {}).items():
            if not callable(function):
                raise BadInput(f"TorchTask: the metric {metric!r} must be a function of (outputs, targets).")
            if metric == "loss":
                raise BadInput("TorchTask: a metric cannot be named 'loss', which is the task's loss; name it another.")

    def places(self, hyperparameters: Mapping[str, Value]) -> dict[str, Place]:
        """What each hyperparameter changes. Raises ``ValueError`` for one that would change nothing."""
        places: dict[str, Place] = {}
        for name in hyperparameters:
            place = place_of(name, role=self.roles.get(name), network=self.network, loss=self.loss)
            if place is None:
                raise ValueError(self._unreachable(name))
            if place == "augmentation" and self.augment is None:
                raise ValueError(
                    f"The hyperparameter {name!r} is the strength of an augmentation, and the task has none: give it "
                    "TorchTask(augment=...), such as augmentations.noise."
                )
            places[name] = place
        return places

    def start_only(self, hyperparameters: Mapping[str, Value]) -> frozenset[str]:
        """Names of those that take effect when the network is built, and cannot change while it trains."""
        return frozenset(name for name, place in self.places(hyperparameters).items() if place in START_ONLY)

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        places = self.places(hyperparameters)
        if self.augment is not None and self.augmentation == 0 and "augmentation" not in places.values():
            raise ValueError(
                f"TorchTask(augment={_name(self.augment)}) would never be called: no hyperparameter is its strength "
                "(roles.augmentation), and TorchTask(augmentation=...) is 0."
            )
        missing = [
            name for name, needed in network_arguments(self.network).items() if needed and name not in hyperparameters
        ]
        if missing:
            raise ValueError(
                f"{_name(self.network)} needs the argument {missing[0]!r}, which is no hyperparameter "
                "and has no default."
            )
        dropout_of_all_layers = [
            name for name, place in places.items() if place == "dropout" and name not in network_arguments(self.network)
        ]
        if dropout_of_all_layers:  # whether there are any dropout layers shows only in the finished network
            import torch

            from raytune_rl.population.networks import build_network

            build_network(self.network, hyperparameters, device=torch.device("cpu"), dropout=dropout_of_all_layers)

    def build(self, context: MemberContext, hyperparameters: Mapping[str, Value]) -> Member:
        from raytune_rl.population.torch_member import TorchMember

        return TorchMember(self, context, hyperparameters)

    def predicting(self, kind: Kind | None = None) -> TorchTask:
        return replace(self, predictions=True, ensemble_kind=kind)

    def evaluation_targets(self) -> EvaluationTargets:
        """The right answers to the validation examples that members report predictions for. Loads the data, and tries
        a network on two rows.

        Raises:
            ValueError: predictions cannot be averaged under this loss, or with such outputs.
        """
        import torch

        from raytune_rl.population.predictions import check_outputs, judged_as
        from raytune_rl.population.splits import load_splits

        cpu = torch.device("cpu")
        validation = load_splits(self.data, cpu).validation
        sample = self.sample(validation)
        inputs, targets = validation.rows(slice(0, 2), cpu)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                outputs = self.network().eval()(inputs)
        except Exception:  # not reported here: the trials will fail in the same way, with the full traceback
            return sample.evaluation_targets
        check_outputs(judged_as(self.loss, self.ensemble_kind), outputs, targets, declared=self.ensemble_kind)
        return sample.evaluation_targets

    def sample(self, validation: Split) -> Sample:
        """The validation examples that members report predictions for. Raises ``ValueError`` if predictions cannot be
        averaged under this loss."""
        from raytune_rl.population.predictions import Sample, counted, judged_as

        targets = counted(validation.targets, self.loss)
        return Sample.of(judged_as(self.loss, self.ensemble_kind), targets, declared=self.ensemble_kind)

    def pack(self) -> Pack | None:
        if not self.packed:
            return None
        from raytune_rl.population.packed.members import TorchPack

        return TorchPack()

    def export(self, state: State, directory: Path) -> None:
        """Write ``model.safetensors`` and ``config.json``; ``raytune_rl.load(directory)`` reads them."""
        from raytune_rl.population.export import export

        export(self.network, state, directory)

    def test(self, state: State) -> Mapping[str, float]:
        import torch

        from raytune_rl.population.evaluation import evaluate
        from raytune_rl.population.export import restore
        from raytune_rl.population.splits import load_splits

        device = torch.device("cpu")
        split = load_splits(self.data, device).test
        if split is None:
            return {}
        network = restore(self.network, state)
        return evaluate(network, split, loss=self.loss, metrics=self.metrics, prefix="test", device=device)

    def _unreachable(self, name: str) -> str:
        arguments = ", ".join(network_arguments(self.network)) or "none"
        settings = ", ".join(sorted(loss_settings(self.loss))) or "none"
        return (
            f"The hyperparameter {name!r} reaches nothing: give it a role (learning_rate, weight_decay, momentum, "
            "dropout, batch_size, label_smoothing for CrossEntropyLoss, frozen_layers, augmentation, initialisation), "
            f"name it grad_clip, or name it like an argument of {_name(self.network)} ({arguments}) or a setting of "
            f"the loss ({settings})."
        )


def _check_augment(augment: object) -> None:
    wanted = "a function of (inputs, strength, generator)"
    if not callable(augment):
        raise BadInput(f"TorchTask: augment must be {wanted}, not {type(augment).__name__}.")
    try:
        inspect.signature(augment).bind(*range(3))
    except TypeError as error:
        raise BadInput(f"TorchTask: augment must be {wanted}, which {_name(augment)} is not: {error}.") from None
    except ValueError:
        return  # some built-in functions do not say what they take


def _name(function: Callable[..., object]) -> str:
    return f"{getattr(function, '__name__', type(function).__name__)}()"
