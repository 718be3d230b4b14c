"""How a policy calls its learner, in the same process or in an actor.

A request is started, and its result is fetched later. Requests are answered in order.
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
"""Of the learner's process: where all cores are busy, it gets about a quarter of one."""


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
    """The learner's answer after an update. Not defined in ``actor.py``, whose imports the acting side does without.

    Attributes:
        version: number of updates; it never decreases.
        weights: for the acting copy; ``None`` if the update was undone because it made them NaN or infinite.
        transitions: number of transitions that this agent has ever learned from.
        calls: number of finished learn calls, by which the policy knows which experience has been used.
        metrics: RLlib's metrics of the last update.
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
    """A learner in this process: every request is answered before ``start`` returns."""

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
    """A learner in a Ray actor that takes no CPU slot. Starting it does not block."""

    def __init__(self, agent: Agent, sizes: Sizes, **arguments: Any) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's node, because both use the same checkpoint directory. Ray does not restart it, since it would
        # not have the newest weights; the policy does.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=bool(agent.num_gpus))
        options = {"num_cpus": 0, "num_gpus": agent.num_gpus, "scheduling_strategy": here, "max_restarts": 0}
        self._ray = ray
        self._actor = ray.remote(**options)(_AgentHost).remote(agent, sizes, arguments)

    def start(self, method: str, *arguments: Any) -> Request:
        return _Remote(self._ray, self._actor.call.remote(method, *arguments))

    def close(self) -> None:
        self._ray.kill(self._actor)


class _AgentHost:
    """The actor's class. RLlib is imported when the actor starts, in its process."""

    def __init__(self, agent: Agent, sizes: Sizes, arguments: dict[str, Any]) -> None:
        import torch

        from raytune_rl.rllib.actor import AgentCore

        torch.set_num_threads(1)
        # Training and decisions go before learning where cores are scarce. Set after the imports, because otherwise a
        # short run would be over before they are done.
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
        done: bool = self._answered.done()  # called at every step, and cheaper than ``ray.wait``
        return done

    def result(self) -> Any:
        return self._ray.get(self._ref)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: the networks are too small for several, and one thread gives reproducible sums."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


LinkFactory = Callable[..., Link]
