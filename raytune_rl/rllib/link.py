"""How a policy reaches its learner: the same calls, answered at once or by an actor.

A request is started and looked at later. Requests are answered in the order in which they were made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from raytune_rl.rllib.network import Weights
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Sizes

NICENESS = 5
"""Of the learner's process: where all cores are taken it gets about a quarter of one."""


class Request(Protocol):
    """A call of the learner that is under way."""

    def ready(self) -> bool:
        """Whether ``result`` would return (or raise) at once."""
        ...

    def result(self) -> Any:
        """The answer; raises what the call raised, or what killed the learner."""
        ...


@dataclass(frozen=True, kw_only=True)
class Update:
    """What the learner tells the acting side. Here and not beside the learner, whose imports would come along with it.

    Attributes:
        version: counts the updates, from 1; it never goes back.
        weights: of the acting copy; ``None`` when the update was refused because it made them NaN or infinite.
        transitions: all that this agent has ever learned from.
        calls: learn calls that have ended, for whoever counts what it has sent.
        metrics: RLlib's own numbers of the last update.
    """

    version: int
    weights: Weights | None
    transitions: int
    calls: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class Link(Protocol):
    """A learner (``actor.AgentCore``), wherever it runs."""

    def start(self, method: str, *arguments: Any) -> Request:
        """Call a method of the learner."""
        ...

    def close(self) -> None:
        """End the learner."""
        ...


class LocalLink:
    """The learner in this process: every request is answered before ``start`` returns."""

    def __init__(self, agent: Agent, sizes: Sizes, **arguments: Any) -> None:
        from raytune_rl.rllib.actor import AgentCore

        with one_thread():
            self._core = AgentCore(agent, sizes, **arguments)

    def start(self, method: str, *arguments: Any) -> Request:
        with one_thread():
            try:
                value = getattr(self._core, method)(*arguments)
            except Exception as error:
                return _Done(error=error)
        return _Done(value=value)

    def close(self) -> None:
        self._core.close()


class ActorLink:
    """The learner in a Ray actor that takes no CPU slot. Starting it does not wait."""

    def __init__(self, agent: Agent, sizes: Sizes, **arguments: Any) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's node, since both read and write the same checkpoint directory. Never restarted by Ray: the
        # policy does that, with newer weights than Ray would have.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=bool(agent.num_gpus))
        options = {"num_cpus": 0, "num_gpus": agent.num_gpus, "scheduling_strategy": here, "max_restarts": 0}
        self._ray = ray
        self._actor = ray.remote(**options)(_AgentHost).remote(agent, sizes, arguments)

    def start(self, method: str, *arguments: Any) -> Request:
        return _Remote(self._ray, self._actor.call.remote(method, *arguments))

    def close(self) -> None:
        self._ray.kill(self._actor)


class _AgentHost:
    """The actor. RLlib is imported in its process only when it starts."""

    def __init__(self, agent: Agent, sizes: Sizes, arguments: dict[str, Any]) -> None:
        import torch

        from raytune_rl.rllib.actor import AgentCore

        torch.set_num_threads(1)
        # Where cores are scarce, training and deciding come first, so that learning delays neither. Not before the
        # imports: held back from its start, it would have learned nothing yet when a short run is over.
        os.nice(NICENESS)
        self._core = AgentCore(agent, sizes, **arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        if method == "pid":
            return os.getpid()
        return getattr(self._core, method)(*arguments)


class _Done:
    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self._value, self._error = value, error

    def ready(self) -> bool:
        return True

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class _Remote:
    def __init__(self, ray: Any, ref: Any) -> None:
        self._ray, self._ref = ray, ref
        self._answered = ref.future()

    def ready(self) -> bool:
        done: bool = self._answered.done()  # asked at every step, and cheaper than ``ray.wait``
        return done

    def result(self) -> Any:
        return self._ray.get(self._ref)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: the networks are too small to share, and one thread adds up in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


LinkFactory = Callable[..., Link]
