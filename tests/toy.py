"""A world that an agent can understand in seconds: move ``lr`` toward an optimum that the observation reveals.

It speaks the ``Policy`` protocol as the controller does (situations in, choices out, chunks to learn from), with the
real ``ActionSpec`` and an observation of a few features. Eight members are played at a time, an episode has twenty
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raytune_rl.controller.policy import Policy, Situation
from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.records import Chunk, Decision, Transition

MEMBERS = 8
STEPS = 20
MOVES = np.array([-0.3, -0.1, -0.03, 0.0, 0.03, 0.1, 0.3])


@dataclass(frozen=True)
class ToyObservation:
    """The part of ``ObservationSpec`` that a policy uses."""

    features: tuple[str, ...] = ("progress", "first", "lr/position", "lr/slope", "noise/0", "noise/1")

    @property
    def size(self) -> int:
        return len(self.features)


def toy_action() -> ActionSpec:
    """Heads: ``hp/lr``, ``hp/wd`` (without any effect here), ``source`` (copying costs a little)."""
    from ray import tune

    return ActionSpec(SearchSpace.from_specs({"lr": tune.uniform(0.0, 1.0), "wd": tune.uniform(0.0, 1.0)}))


class ToyWorld:
    """Episodes of eight members with optima of their own."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._generation = 0

    def play(self, policy: Policy, learn: bool = False) -> float:
        """One generation, member by member through all steps. Returns the members' mean return."""
        episodes = list(self._episodes())
        total = 0.0
        waiting: list[Transition | None] = [None] * MEMBERS
        for step in range(STEPS + 1):
            observations = [episode.observe(step) for episode in episodes]
            for member, before in enumerate(waiting):
                if before is None:
                    continue
                done = Transition(
                    decision=before.decision,
                    reward=before.reward,
                    next_observation=tuple(observations[member].tolist()),
                    truncated=step == STEPS,
                )
                if learn:
                    name = f"{member}-{self._generation}"
                    chunk = Chunk(episode=name, member=member, start=step - 1, transitions=(done,))
                    policy.learn([chunk], wait=True)
            if step == STEPS:
                break
            situations = [
                Situation(member=m, segment=step, first=step == 0, observation=o, seed=int(self._rng.integers(2**31)))
                for m, o in enumerate(observations)
            ]
            for m, choice in enumerate(policy.act(situations)):
                reward = episodes[m].move(choice.action, first=step == 0)
                total += reward
                decision = Decision(
                    member=m,
                    segment=step,
                    hyperparameters={},
                    positions=(),
                    action=tuple(choice.action),
                    observation=tuple(observations[m].tolist()),
                    logp=choice.logp,
                    policy_version=choice.version,
                    extras=choice.extras,
                )
                waiting[m] = Transition(decision=decision, reward=reward, next_observation=())
        self._generation += 1
        return total / MEMBERS

    def _episodes(self) -> Iterator[_Episode]:
        for _ in range(MEMBERS):
            yield _Episode(optimum=float(self._rng.uniform(0.1, 0.9)), noise=self._rng.normal(size=(STEPS + 1, 2)))


@dataclass
class _Episode:
    optimum: float
    noise: NDArray[np.float64]
    position: float = 0.5

    def observe(self, step: int) -> NDArray[np.float32]:
        slope = 4.0 * (self.optimum - self.position)
        values = [step / STEPS, float(step == 0), self.position, slope, *self.noise[step]]
        return np.clip(np.array(values), -4, 4).astype(np.float32)

    def move(self, action: tuple[int, ...], *, first: bool) -> float:
        self.position = action[0] / 6 if first else float(np.clip(self.position + MOVES[action[0]], 0, 1))
        return max(1.0 - 4.0 * abs(self.position - self.optimum), -1.0) - (0.2 if action[2] != 0 and not first else 0.0)


def score(policy: Policy, seed: int, generations: int = 5) -> float:
    """The mean return of a policy that does not learn meanwhile."""
    world = ToyWorld(seed)
    return float(np.mean([world.play(policy) for _ in range(generations)]))


def train(make: Callable[[], Policy], seed: int, generations: int) -> tuple[Policy, list[float]]:
    """A fresh policy after so many generations of 160 decisions, and the return of each."""
    policy = make()
    policy.bind(ToyObservation(), toy_action(), seed=seed)  # type: ignore[arg-type]
    world = ToyWorld(seed)
    return policy, [world.play(policy, learn=True) for _ in range(generations)]


def interval(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean and 95 % t interval over seeds (5 seeds: t = 2.776)."""
    quantile = {3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}[len(differences)]
    half = quantile * float(np.std(differences, ddof=1)) / np.sqrt(len(differences))
    mean = float(np.mean(differences))
    return mean, mean - half, mean + half
