"""Methods that train a whole population from beginning to end: static ones, PBT, PB2, and our controller.

Training is packed; what decides is the library's own code: Ray's ``_explore`` for PBT, Ray's ``PB2`` object for PB2.
Restated from ``ray/tune/schedulers/pbt.py`` (``_quantiles``, ``_exploit``; ``synch=True``) is who copies whom: the
lowest quarter takes the weights of a random one of the upper quarter. ``scripts/bench_peers`` runs it through Tune.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers.pb2 import PB2
from ray.tune.schedulers.pbt import _explore, _PBTTrialState
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning

from quality.harness import GlobalRandomness, Log, Method, Plan, Result, Starts, apply
from quality.protocol import OFFSET, PB2_WORST, SEGMENTS
from raytune_rl.controller.policy import Policy
from raytune_rl.controller.schedule import refit_segments
from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.refits import Refitting
from raytune_rl.worlds.rollout import Rollout, make_controller
from raytune_rl.worlds.task import WorldTask

QUANTILE = 0.25
RESAMPLED = 0.25
FACTORS = (1.2, 0.8)
"""Ray's defaults."""

PB2_INTERVAL = 2
PB2_INTERVAL_LARGE = 4
"""Segments between PB2's decisions, and the same for populations of more than 16: its Gaussian processes see a row per
member and decision, and beyond 200 rows one decision takes Ray minutes."""


def controlled(
    make_policy: Callable[[], Policy], *, ensemble: bool = False, deliver: bool = False, refit: bool = False
) -> Method:
    """A policy behind the controller of this package; ``ensemble``: that is the objective; ``deliver``: see ``Log``;
    ``refit``: the last part of the budget is a refit's (``Experiment.refit``)."""

    def run(task: WorldTask, plan: Plan) -> Result:
        cohort = Cohort(task, range(plan.seeds * plan.members), seed=plan.seed)
        log = Log(plan, deliver=deliver)
        policies = [make_policy() for _ in range(plan.seeds)]
        controllers = [
            make_controller(
                task, policy, members=plan.members, segments=SEGMENTS, seed=plan.seed + run, ensemble=ensemble
            )
            for run, policy in enumerate(policies)
        ]
        steered = SEGMENTS - refit_segments(SEGMENTS) if refit else SEGMENTS
        rollout = Rollout(cohort, controllers, segments=steered)

        def measure(segment: int) -> None:
            log.add(cohort, np.stack([played.validation[segment] for played in rollout.played]))

        rollout.play(measure)
        _refit(cohort, plan, log, SEGMENTS - steered)
        return log.result()

    return run


def static(starts: Starts, *, cosine: bool, deliver: bool = False) -> Method:
    """Values that stay, with or without a cosine over the learning rate; ``deliver``: see ``Log``."""

    def nothing(members: _Members, segment: int, losses: np.ndarray) -> None:
        """Everybody goes on."""

    return _population(starts, nothing, interval=SEGMENTS, cosine=cosine, deliver=deliver)


def pbt(starts: Starts, *, interval: int, cosine: bool, deliver: bool = False, refit: bool = False) -> Method:
    """Population Based Training (Jaderberg et al. 2017) as Ray has it: a copy's values are drawn anew with probability
    0.25, otherwise multiplied by 1.2 or 0.8, and kept within their bounds (which Ray leaves to the user). ``deliver``
    and ``refit``, which Ray does not know: see ``controlled``."""

    def exploit(members: _Members, segment: int, losses: np.ndarray) -> None:
        space = members.task.space
        domains = tune_domains(space)
        for run, target, source in members.pairs(losses):
            with members.randomness[run]:
                values, _ = _explore(
                    space.decode(members.positions[source].tolist()), domains, RESAMPLED, FACTORS, within(space)
                )
            members.replace(target, source, space.encode(values))

    return _population(starts, exploit, interval=interval, cosine=cosine, deliver=deliver, refit=refit)


def pb2(starts: Starts, *, cosine: bool) -> Method:
    """Population Based Bandits (Parker-Holder et al. 2020): Ray's own ``PB2`` is told every result and asked for every
    copy's values. It works on positions in the search space (a logarithm where the space has one) and on
    ``ln(loss + 0.02)``, both of which its Gaussian process models better than the raw numbers."""

    def interval(plan: Plan) -> int:
        return PB2_INTERVAL if plan.members <= 16 else PB2_INTERVAL_LARGE

    def run(task: WorldTask, plan: Plan) -> Result:
        every = interval(plan)
        tuners = [_Tuner(task.space, every) for _ in range(plan.seeds)]

        def exploit(members: _Members, segment: int, losses: np.ndarray) -> None:
            for run, tuner in enumerate(tuners):
                first = run * plan.members
                own = members.positions[first : first + plan.members]
                tuner.tell(segment + 1, own, np.minimum(np.log(losses[run] + OFFSET), PB2_WORST))
            for run, target, source in members.pairs(losses):
                first = run * plan.members
                with members.randomness[run]:
                    new = tuners[run].ask(target - first, source - first, members.positions[source])
                members.replace(target, source, new)

        return _population(starts, exploit, interval=every, cosine=cosine)(task, plan)

    return run


def tune_domains(space: SearchSpace) -> dict[str, Any]:
    """The space in Tune's words."""
    return {
        h.name: (tune.loguniform if h.log else tune.uniform)(h.lower, h.upper)  # type: ignore[union-attr]
        for h in space
    }


def within(space: SearchSpace) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A ``custom_explore_fn`` that keeps values within their bounds."""
    bounds = {h.name: (h.lower, h.upper) for h in space}  # type: ignore[union-attr]
    return lambda values: {n: min(max(v, bounds[n][0]), bounds[n][1]) for n, v in values.items()}


class _Members:
    """Populations in training: (seeds * members) positions, and the copies decided upon."""

    def __init__(self, task: WorldTask, plan: Plan, positions: np.ndarray) -> None:
        self.task, self.positions = task, positions
        self.randomness = [GlobalRandomness(plan.seed + run) for run in range(plan.seeds)]
        self._generators = plan.generators()
        self._size = plan.members
        self._copies: list[tuple[int, int]] = []

    def pairs(self, losses: np.ndarray) -> list[tuple[int, int, int]]:
        """Run, member that is replaced, and the member that replaces it, for losses (seeds, members)."""
        quarter = math.ceil(self._size * QUANTILE)
        found = []
        for run, (rng, loss) in enumerate(zip(self._generators, losses, strict=True)):
            order = np.argsort(loss, kind="stable") + run * self._size
            found += [(run, int(loser), int(rng.choice(order[:quarter]))) for loser in order[-quarter:]]
        return found

    def replace(self, target: int, source: int, position: Sequence[float]) -> None:
        self.positions[target] = position
        self._copies.append((target, source))

    def copied(self, cohort: Cohort) -> None:
        """Carry the copies out."""
        targets, sources = [target for target, _ in self._copies], [source for _, source in self._copies]
        cohort.take(targets, sources, [False] * len(targets))
        self._copies.clear()


def _population(
    starts: Starts,
    exploit: Callable[[_Members, int, np.ndarray], None],
    *,
    interval: int,
    cosine: bool,
    deliver: bool = False,
    refit: bool = False,
) -> Method:
    """Train; after every ``interval`` segments but the last, ``exploit(members, segment, losses)``."""

    def run(task: WorldTask, plan: Plan) -> Result:
        cohort = Cohort(task, range(plan.seeds * plan.members), seed=plan.seed)
        log = Log(plan, deliver=deliver)
        positions = np.concatenate([starts(task, plan.members, rng) for rng in plan.generators()])
        members = _Members(task, plan, positions)
        steered = SEGMENTS - refit_segments(SEGMENTS) if refit else SEGMENTS
        for segment in range(steered):
            apply(cohort, members.positions, segment, cosine)
            losses = log.add(cohort, cohort.train().validation_loss)
            if (segment + 1) % interval == 0 and segment + 1 < steered:
                exploit(members, segment, losses)
                members.copied(cohort)
        _refit(cohort, plan, log, SEGMENTS - steered)
        return log.result()

    return run


def _refit(cohort: Cohort, plan: Plan, log: Log, segments: int) -> None:
    """The last ``segments`` of the budget, if any are left for it."""
    if segments == 0:
        return
    refitting = Refitting(cohort, plan.members, segments=segments, seed=plan.seed)
    split = cohort.task.splits.validation
    for segment in range(segments):
        refitting.train(segment)
        copies = refitting.copies
        log.add(copies, copies.score(split)[0].reshape(plan.seeds, -1), refitting.deliver())


class _Trial:
    """As much of a Tune trial as PB2 looks at: a name and a configuration."""

    experiment_tag = ""

    def __init__(self, name: str, config: dict[str, float]) -> None:
        self._name, self.config = name, config

    def __str__(self) -> str:
        return self._name


class _Tuner:
    """Ray's PB2 over positions, without the trials."""

    def __init__(self, space: SearchSpace, interval: int) -> None:
        self._names = space.names
        bounds = {name: [0.0, 1.0] for name in self._names}
        self._pb2 = PB2(
            time_attr="time",
            metric="score",
            mode="min",
            perturbation_interval=interval,
            hyperparam_bounds=bounds,
            synch=True,
            log_config=False,
        )

    def tell(self, time: int, positions: np.ndarray, scores: np.ndarray) -> None:
        for member, (position, value) in enumerate(zip(positions, scores, strict=True)):
            trial = self._trial(member, position)
            self._pb2._save_trial_state(_PBTTrialState(trial), time, {"time": time, "score": float(value)}, trial)

    def ask(self, target: int, source: int, position: np.ndarray) -> list[float]:
        """New values for ``target``, which takes the weights of ``source`` at ``position``."""
        trials = self._trial(target, position), self._trial(source, position)
        with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
            warnings.simplefilter("ignore", ConvergenceWarning)  # half of its fits end at a bound
            config, _ = self._pb2._get_new_config(*trials)
        return [float(config[name]) for name in self._names]

    def _trial(self, member: int, position: np.ndarray) -> Any:
        return _Trial(f"member {member}", dict(zip(self._names, position.tolist(), strict=True)))
