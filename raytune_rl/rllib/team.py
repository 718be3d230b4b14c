"""Multi-agent control of a population: which agent decides what (its *seat*), and with which network.

``agents="members"``: each member is an agent that decides everything about itself. ``agents="hyperparameters"``: each
hyperparameter of a member is one, which sees the member and its own part of the observation; so are the source of the
weights and the stop, which see everything (one agent per hyperparameter: MA-DAC, Xue et al., NeurIPS 2022). All agents
of a member get the member's reward.

``modules`` says which agents share a network:

===========  ===============================  ===========================================================
modules      ``agents="members"``             ``agents="hyperparameters"``
===========  ===============================  ===========================================================
``shared``   all members                      all hyperparameters of all members; sources; stops
``role``     the even members (exploiters),   hyperparameters of one role (``roles.learning_rate``, ...);
             the odd ones (explorers)         sources; stops
``own``      none                             the same hyperparameter of all members; sources; stops
===========  ===============================  ===========================================================

Explorers learn with an entropy bonus, exploiters without, so that half of a population keeps trying.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raytune_rl.rllib.network import Weights, initial_weights
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Sizes

EXPLORER, EXPLOITER = "explorer", "exploiter"
ENTROPY: Final = {EXPLORER: 0.05, EXPLOITER: 0.0}
"""Weight of the entropy bonus by role (the default of an agent without roles is 0.01)."""

_HYPERPARAMETER = "hp/"


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One agent's part of a member's decision.

    Attributes:
        name: of the agent among those of its member; empty where it decides alone.
        module: whose network decides.
        features: indices of the features that it sees.
        heads: indices of the heads that it sets.
        logits: the place of these heads' logits among those of all heads.
    """

    name: str
    module: str
    features: NDArray[np.int64]
    heads: tuple[int, ...]
    logits: slice

    def agent(self, member: int) -> str:
        """The agent's name in the whole population."""
        return f"member-{member}{self.name and ':'}{self.name}"


@dataclass(frozen=True, kw_only=True)
class Team:
    """All agents of a population.

    Attributes:
        modules: by name, what each network sees and sets.
        seating: by member, the seats in the order of the heads.
    """

    modules: Mapping[str, Sizes]
    seating: Callable[[int], tuple[Seat, ...]]

    @classmethod
    def of(cls, agent: Agent, sizes: Sizes) -> Team | None:
        """The team that the settings describe; ``None`` for a single agent.

        Raises:
            ValueError: ``modules="own"`` with ``agents="members"`` needs the population size, which is not set.
        """
        if agent.agents == "one":
            return None
        return _members(agent, sizes) if agent.agents == "members" else _hyperparameters(agent, sizes)


def module_seed(seed: int, index: int) -> int:
    """The seed of the starting weights of a team's network number ``index``; the first one gets the agent's own."""
    return seed + 7919 * index


def starting_weights(agent: Agent, sizes: Sizes, *, seed: int) -> Weights:
    """``network.initial_weights`` of all networks of an agent or a team."""
    team = Team.of(agent, sizes)
    if team is None:
        return initial_weights(agent, sizes, seed=seed)
    modules = enumerate(team.modules.items())
    return joined({name: initial_weights(agent, own, seed=module_seed(seed, i)) for i, (name, own) in modules})


def joined(weights: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The parameters of several modules as one mapping, by ``<module>/<parameter>``."""
    return {f"{module}/{name}": value for module, own in weights.items() for name, value in own.items()}


def separated(weights: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    """The inverse of ``joined``."""
    by_module: dict[str, dict[str, NDArray[Any]]] = {}
    for path, value in weights.items():
        module, _, name = path.partition("/")
        by_module.setdefault(module, {})[name] = value
    return by_module


def _members(agent: Agent, sizes: Sizes) -> Team:
    names: tuple[str, ...] = ("member",)
    if agent.modules == "role":
        names = (EXPLOITER, EXPLORER)
    elif agent.modules == "own":
        if agent.population is None:
            raise ValueError("Agent.modules is 'own', for which Agent.population must be the number of members.")
        names = tuple(f"member-{member}" for member in range(agent.population))
    everything = np.arange(len(sizes.features))
    heads = tuple(range(len(sizes.nvec)))
    seats = [
        (Seat(name="", module=name, features=everything, heads=heads, logits=slice(0, sum(sizes.nvec))),)
        for name in names
    ]
    return Team(modules=dict.fromkeys(names, sizes), seating=lambda member: seats[member % len(seats)])


def _hyperparameters(agent: Agent, sizes: Sizes) -> Team:
    common = [i for i, name in enumerate(sizes.features) if not name.startswith((_HYPERPARAMETER, "pad/"))]
    modules: dict[str, Sizes] = {}
    seats, first = [], 0
    for head, (name, size) in enumerate(zip(sizes.heads, sizes.nvec, strict=True)):
        if name.startswith(_HYPERPARAMETER):
            own = [i for i, feature in enumerate(sizes.features) if feature.startswith(f"{name}/")]
            module = _module_of(agent, sizes, head)
            seen, label = [*common, *own], "hp"
        else:
            module, label = name, name
            seen = list(range(len(sizes.features)))
        # Features without the hyperparameter's name, because a network may serve several hyperparameters.
        names = tuple(sizes.features[i].removeprefix(f"{name}/") for i in seen)
        modules.setdefault(module, Sizes(features=names, heads=(label,), nvec=(size,)))
        seats.append(
            Seat(
                name=name,
                module=module,
                features=np.asarray(seen),
                heads=(head,),
                logits=slice(first, first + size),
            )
        )
        first += size
    seated = tuple(seats)
    return Team(modules=modules, seating=lambda member: seated)


def _module_of(agent: Agent, sizes: Sizes, head: int) -> str:
    """The module's name. RLlib uses it as a file name, so it has letters, digits and dashes only."""
    if agent.modules == "shared":
        return "hyperparameter"
    if agent.modules == "role":
        return f"role-{sizes.roles[head]}"
    return f"hp{head}-{re.sub('[^A-Za-z0-9]+', '-', sizes.heads[head].removeprefix(_HYPERPARAMETER))}"
