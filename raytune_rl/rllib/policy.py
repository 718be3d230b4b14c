"""The learning agent as the controller sees it: acts with a local copy of the network, learns elsewhere.

Decisions never wait for learning. Experience collects in an outbox. When there is a batch and the learner is free, the
batch is sent; when the answer has arrived, the new weights are adopted. If the learner dies, raises an error or
produces NaN, decisions go on with the last good weights, and a new learner is started.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from raytune_rl.controller.policy import Choice, PolicyRequirements, Situation
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.records import Chunk, Transition
from raytune_rl.rllib import experience, saved
from raytune_rl.rllib.acting import Acting, acting_copy
from raytune_rl.rllib.checkpoints import Checkpoint
from raytune_rl.rllib.link import ActorLink, Link, LinkFactory, LocalLink, Request, Update
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Sizes
from raytune_rl.rllib.traits import TRAITS, batch_size

MAX_LAG = 4
"""On-policy algorithms learn from transitions whose weights were at most that many versions old."""
OUTBOX_FRESH, OUTBOX = 8, 64
"""Most batches that wait for a slow learner (of an on-policy algorithm, of others); the oldest are dropped."""
MAX_FAILURES = 5
"""Consecutive failures of the learner after which the policy goes on without learning."""

log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["learn", "save", "restore"]


@dataclass(frozen=True, kw_only=True)
class _Open:
    """A request that has not been answered yet, with the experience or the directory that was sent."""

    kind: Kind
    request: Request
    chunks: tuple[Chunk, ...]
    directory: str


class LearningPolicy:
    """A ``Policy`` that learns with RLlib.

    Args:
        agent: the settings.
        remote: ``True`` learns in a Ray actor (once Ray is initialised), ``False`` in this process, which then waits
            for every update.

    Attributes:
        transitions: usable transitions received so far, over all runs of this agent.
        version: of the weights that act now.
        restarts: how often the learner had to be started again.
        dropped: transitions that arrived too late or too fast to be learned from.
        metrics: RLlib's metrics of the last update.
    """

    requirements = PolicyRequirements()

    def __init__(self, agent: Agent, *, remote: bool = True) -> None:
        self.agent = agent
        self.remote = remote
        self.transitions = 0
        self.version = 0
        self.restarts = 0
        self.dropped = 0
        self.metrics: Mapping[str, float] = {}
        self._outbox = experience.Outbox()
        self._calls = 0
        self._saved = agent.checkpoint
        self._failures = 0
        self._observation: ObservationSpec | None = None
        self._sizes: Sizes | None = None
        self._action: ActionSpec | None = None
        self._seed = 0
        # Live objects, which are not pickled with the policy.
        self._link: Link | None = None
        self._acting: Acting | None = None
        self._open: deque[_Open] = deque()
        self._saved_now = False

    # -- the Policy protocol -------------------------------------------------------------------------------------------

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        """Set the spaces and begin to start the learner, without waiting for it.

        Raises:
            ValueError: ``agent.checkpoint`` is missing, damaged, or of other spaces; or RLlib does not accept
                ``agent.training``.
        """
        self._observation, self._action = observation, action
        self._sizes = Sizes.of(observation, action)
        self._seed = seed % 2**31
        if self._saved is not None:
            self._check(self._saved)
        if self.agent.training:  # only RLlib can check it, and is not imported here otherwise
            from raytune_rl.rllib.algorithms import build_config

            build_config(self.agent, self._sizes)
        self._ensure_link()

    def act(self, situations: Sequence[Situation]) -> Sequence[Choice]:
        if not situations:
            return []
        return self._local().act(situations, decisions=self.transitions, version=self.version)

    def learn(self, chunks: Sequence[Chunk], *, wait: bool = False) -> None:
        if not self.agent.learn:
            return
        self._ensure_link()  # starting takes seconds, so not only when the first batch is there
        self._receive(chunks)
        self._collect()
        while self._send() and wait:
            self._collect(wait=True)

    def get_state(self) -> dict[str, Any]:
        """Counters, and the experience that no finished update contains; ``save`` writes the network."""
        waiting = [chunk for call in self._open for chunk in call.chunks]
        return {
            "transitions": self.transitions,
            "restarts": self.restarts,
            "dropped": self.dropped,
            "calls": self._calls,
            "sent": tuple(waiting),
            "outbox": self._outbox.chunks,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.transitions = state["transitions"]
        self.restarts = state["restarts"]
        self.dropped = state["dropped"]
        self._outbox = experience.Outbox(state["outbox"])
        if self._calls <= state["calls"]:
            self._outbox.put_back(state["sent"])  # the restored learner has not seen these yet
        self._calls = max(self._calls, state["calls"])

    def save(self, directory: str, *, wait: bool = True) -> bool:
        """Have the learner write a checkpoint (weights, optimiser, replay buffer, random streams).

        ``wait=False`` returns at once, so that no decision is delayed; the files appear later, atomically. Returns
        whether a checkpoint was written (with ``wait=False``: begun).
        """
        saving = any(call.kind == "save" for call in self._open)
        if not self._ensure_link() or self._link is None or (saving and not wait):
            return False
        self._saved_now = False
        started = self._ask("save", directory, directory=directory)
        if wait:
            self._collect(wait=True)
        return self._saved_now if wait else started

    def restore(self, directory: str) -> None:
        """Act with the checkpoint's weights from now on; the learner restores it asynchronously.

        Raises:
            ValueError: there is no complete checkpoint, or it is of other spaces.
        """
        checkpoint = self._check(directory)
        self._saved = directory
        self._collect(wait=True)
        self._local().set_weights(saved.read_weights(checkpoint))
        self.version = checkpoint.record["version"]
        self.transitions = max(self.transitions, checkpoint.record["transitions"])
        self._calls = checkpoint.record["calls"]
        if self._link is not None:
            self._ask("restore", directory, directory=directory)

    def close(self) -> None:
        self._check_ray()
        if self._link is not None:
            try:
                self._link.close()
            except Exception as error:
                log.debug("Closing the learner: %s", error)
        self._forget_live()

    # -- experience ----------------------------------------------------------------------------------------------------

    def _receive(self, chunks: Sequence[Chunk]) -> None:
        chunks = experience.select(chunks, self._usable)
        self.transitions += experience.count(chunks)
        self._outbox.add(chunks)
        batches = OUTBOX_FRESH if TRAITS[self.agent.algorithm].on_policy else OUTBOX
        self.dropped += self._outbox.trim(batches * batch_size(self.agent))

    def _usable(self, transition: Transition) -> bool:
        """Whether it can be learned from. Decisions of no policy or of another algorithm lack the necessary extras."""
        needs = TRAITS[self.agent.algorithm].encoding.needs
        return bool(transition.decision.action) and all(name in transition.decision.extras for name in needs)

    def _send(self) -> bool:
        """Start a learn call if there is a batch and the learner is free. Returns whether a call is under way."""
        if any(call.kind == "learn" for call in self._open):
            return True
        if self._outbox.transitions < batch_size(self.agent):
            return False
        if TRAITS[self.agent.algorithm].on_policy:
            self._drop_stale()
        if self._outbox.transitions < batch_size(self.agent) or not self._ensure_link() or self._link is None:
            return False
        chunks = self._outbox.take()
        return self._ask("learn", chunks, chunks=chunks)

    def _drop_stale(self) -> None:
        oldest = self.version - MAX_LAG
        self.dropped += self._outbox.keep(lambda t: t.decision.policy_version >= oldest)

    # -- the learner ---------------------------------------------------------------------------------------------------

    def _check_ray(self) -> None:
        """Forget a learner whose Ray has been shut down: a call of it would make Ray start another cluster."""
        if self._link is not None and self.remote and not _ray_is_up():
            self._outbox.put_back([chunk for call in self._open for chunk in call.chunks])
            self._link, self._open = None, deque()

    def _ensure_link(self) -> bool:
        """Start a learner if there is none. Returns whether there is one now, possibly still starting."""
        self._check_ray()
        if self._link is None and self.agent.learn and self._failures < MAX_FAILURES and self._sizes is not None:
            if self.remote and not _ray_is_up():
                return False
            make: LinkFactory = ActorLink if self.remote else LocalLink
            # If the checkpoint makes the learner fail, the second try does without it.
            checkpoint = self._saved if self._failures < 2 else None
            weights = self._local().weights() if self.version else None
            try:
                self._link = make(
                    self.agent,
                    self._sizes,
                    seed=self._seed,
                    checkpoint=checkpoint,
                    weights=weights,
                    version=self.version,
                )
            except Exception as error:
                self._fail(error, ())
        return self._link is not None

    def _ask(self, kind: Kind, argument: Any, *, chunks: tuple[Chunk, ...] = (), directory: str = "") -> bool:
        """Call the learner. Returns whether the call was made (a learner in this process has answered already)."""
        assert self._link is not None
        try:
            request = self._link.start(kind, argument)
        except Exception as error:
            self._fail(error, chunks)
            return False
        self._open.append(_Open(kind=kind, request=request, chunks=chunks, directory=directory))
        if kind == "learn":
            self._collect()
        return True

    def _collect(self, *, wait: bool = False) -> None:
        """Process the answers that have arrived, in order; with ``wait``, wait for all of them."""
        self._check_ray()
        while self._open:
            call = self._open[0]
            try:
                if not (wait or call.request.ready()):
                    return
                answer = call.request.result()
            except Exception as error:
                self._open.popleft()
                self._fail(error, call.chunks)
                return
            self._open.popleft()
            self._failures = 0
            if call.kind == "learn":
                self._adopt(answer)
            elif call.kind == "save" and answer:
                self._saved, self._saved_now = call.directory, True

    def _adopt(self, update: Update) -> None:
        self._calls = update.calls
        if update.weights is None or update.version <= self.version:
            return
        self._local().set_weights(update.weights)
        self.version = update.version
        self.metrics = update.metrics

    def _fail(self, error: Exception, chunks: Sequence[Chunk]) -> None:
        """After the learner died or raised: start a new one from its last checkpoint and the newest weights."""
        self._failures += 1
        self.restarts += 1
        lost = [chunk for call in self._open for chunk in call.chunks]
        if self._failures == 1:
            # Tried once more. If this experience was the cause of the failure, it is dropped after the second one.
            self._outbox.put_back([*chunks, *lost])
        else:
            self.dropped += experience.count([*chunks, *lost])
        if self._link is not None:
            try:
                self._link.close()
            except Exception as also:
                log.debug("Closing the failed learner: %s", also)
        self._link, self._open = None, deque()
        log.debug("The failure of the learner:", exc_info=error)
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        if self._failures >= MAX_FAILURES:
            log.warning(
                "The learning agent failed %d times (%s); it acts on without learning.", MAX_FAILURES, reason[0]
            )
            return
        log.warning("The learning agent failed (%s: %s); starting it again.", type(error).__name__, reason[0])
        self._ensure_link()

    def _check(self, directory: str) -> Checkpoint:
        assert self._sizes is not None, "bind comes first"
        return saved.load(directory, self.agent, self._sizes)

    def _local(self) -> Acting:
        """The acting copy, made on first use."""
        if self._acting is None:
            assert self._observation is not None and self._action is not None, "bind comes first"
            self._acting = acting_copy(self.agent, self._observation, self._action, seed=self._seed)
            if self._saved is not None:
                checkpoint = self._check(self._saved)
                self._acting.set_weights(saved.read_weights(checkpoint))
                self.version = max(self.version, checkpoint.record["version"])
        return self._acting

    # -- pickling ------------------------------------------------------------------------------------------------------

    def _forget_live(self) -> None:
        self._link, self._acting = None, None
        self._open, self._saved_now = deque(), False

    def __getstate__(self) -> dict[str, Any]:
        """Settings, counters and experience, without the learner, its open requests and the network."""
        state = self.__dict__ | {"_outbox": self.get_state()["sent"] + self._outbox.chunks}
        return {name: value for name, value in state.items() if name not in ("_link", "_acting", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget_live()
        self.__dict__.update(state)
        self._outbox = experience.Outbox(state["_outbox"])


def _ray_is_up() -> bool:
    import ray

    return bool(ray.is_initialized())
