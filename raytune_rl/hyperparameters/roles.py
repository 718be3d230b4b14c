"""What a hyperparameter is *for*, which is what an agent can transfer to another task.

Range and scale determine how a value moves; the role says which effect to expect. Users wrap a Ray Tune domain in a
role (``roles.learning_rate(tune.loguniform(1e-5, 1.0))``); hyperparameters without one are ``plain``. The observation
shows the role of each hyperparameter as a one-hot vector in the order of ``SEEN_ROLES``, so that a policy that was
meta-trained with one search space can be used with another.

What a role changes besides the observation:

==================  ==========================================================================================
role                effect
==================  ==========================================================================================
``learning_rate``   on a log scale a move multiplies by 0.1 ... 10 (others: 0.2 ... 5); a schedule scales it
``weight_decay``    starting values include the lower end of the range exactly
``dropout``         as ``weight_decay``
``label_smoothing`` as ``weight_decay``
``augmentation``    as ``weight_decay``; the observation shows it as ``dropout`` (see ``SEEN_AS``)
``initialisation``  set at the start only, unless ``live=True`` is passed
``momentum``, ``batch_size``, ``frozen_layers``, ``none``: the observation only
==================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

Role: TypeAlias = Literal[
    "learning_rate",
    "weight_decay",
    "dropout",
    "momentum",
    "batch_size",
    "label_smoothing",
    "initialisation",
    "frozen_layers",
    "none",
    "augmentation",
]

ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""All roles. Append only: trained policies depend on the order."""

SEEN_AS: Final[Mapping[Role, Role]] = {"augmentation": "dropout"}
"""Roles that were added after the shipped controller was trained, and the role that the observation shows for each. A
flag of their own would be another input, which the trained weights do not have. Augmentation is most like dropout:
noise in training only, 0 = none, on a linear scale (noise on the inputs acts as a penalty on the network's slopes,
Bishop 1995; dropout of the inputs is such noise). To tell such a role apart, a new controller has to be trained."""

SEEN_ROLES: Final[tuple[Role, ...]] = tuple(role for role in ROLES if role not in SEEN_AS)
"""The roles of the observation's one-hot vector, in its order."""

REGULARISATION: Final[frozenset[Role]] = frozenset({"weight_decay", "dropout", "label_smoothing", "augmentation"})
"""Roles whose lower end usually means "off", which is often the best value. Uniform samples of a range almost never
turn them off, so starting values include the lower end."""

ROLE_BOUNDS: Final[dict[Role, tuple[float, float]]] = {
    "learning_rate": (0.0, float("inf")),
    "weight_decay": (0.0, float("inf")),
    "dropout": (0.0, 1.0),
    "momentum": (0.0, 1.0),
    "batch_size": (1.0, float("inf")),
    "label_smoothing": (0.0, 1.0),
    "frozen_layers": (0.0, float("inf")),
    "augmentation": (0.0, float("inf")),
}
"""The numbers that make sense for a role, both ends included. A range that leaves these bounds is an error."""


def seen_as(role: Role) -> Role:
    """The role that the observation shows ``role`` as: one of ``SEEN_ROLES``."""
    return SEEN_AS.get(role, role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a user writes for one hyperparameter, before it has a name.

    Attributes:
        domain: a Ray Tune domain (``tune.uniform``, ``loguniform``, ``randint``, ``choice`` or a quantised form) or a
            plain list or tuple of options.
        role: what the hyperparameter is for.
        live: whether it may change during training; otherwise it is set once, by the first decision.
    """

    domain: Any
    role: Role = "none"
    live: bool = True


def learning_rate(domain: Any, *, live: bool = True) -> Spec:
    """The step size of the optimiser. It moves in wider steps than other hyperparameters, and schedules scale it."""
    return Spec(domain=domain, role="learning_rate", live=live)


def weight_decay(domain: Any, *, live: bool = True) -> Spec:
    """The L2 or decoupled penalty on the weights, not negative."""
    return Spec(domain=domain, role="weight_decay", live=live)


def dropout(domain: Any, *, live: bool = True) -> Spec:
    """The probability of dropping a unit, in [0, 1]."""
    return Spec(domain=domain, role="dropout", live=live)


def momentum(domain: Any, *, live: bool = True) -> Spec:
    """Momentum or one of the optimiser's betas, in [0, 1]."""
    return Spec(domain=domain, role="momentum", live=live)


def batch_size(domain: Any, *, live: bool = True) -> Spec:
    """Examples per optimiser step, at least 1."""
    return Spec(domain=domain, role="batch_size", live=live)


def label_smoothing(domain: Any, *, live: bool = True) -> Spec:
    """The share of the target's probability that is spread over all classes, in [0, 1]."""
    return Spec(domain=domain, role="label_smoothing", live=live)


def initialisation(domain: Any, *, live: bool = False) -> Spec:
    """How the weights are initialised: scheme, gain, pretrained source. By default set only once, at the start."""
    return Spec(domain=domain, role="initialisation", live=live)


def frozen_layers(domain: Any, *, live: bool = True) -> Spec:
    """How many layers, or which group of layers, are not trained."""
    return Spec(domain=domain, role="frozen_layers", live=live)


def augmentation(domain: Any, *, live: bool = True) -> Spec:
    """How strongly training examples are changed before the network gets them, not negative; 0 = not at all."""
    return Spec(domain=domain, role="augmentation", live=live)


def plain(domain: Any, *, live: bool = True) -> Spec:
    """A hyperparameter without a role: the agent sees only its position and its effects."""
    return Spec(domain=domain, role="none", live=live)
