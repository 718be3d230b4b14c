"""Every method of the comparison, on the same tasks, at equal member-steps.

A method trains ``MEMBERS * SEGMENTS`` member-segments per seed and says, in the order in which it trained them, what
validation and test gave after each (test is recorded for the curves and read by nobody before the end). All seeds of a
method train as one packed program. Where the rule of a peer is restated, its docstring names what is restated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from raytune_rl.controller.policies import Cosine, Fixed, Random
from raytune_rl.controller.policy import Policy
from raytune_rl.controller.schedule import schedule_factor
from raytune_rl.controller.tokens import TokenPolicy, initial_weights
from raytune_rl.pretrained import Pretrained
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.rollout import Rollout, make_controller
from raytune_rl.worlds.task import WorldTask

MEMBERS, SEGMENTS = 8, 20
BUDGET = MEMBERS * SEGMENTS


@dataclass(frozen=True, kw_only=True)
class Result:
    """Arrays of shape (seeds, BUDGET), in the order of training; unused places hold infinity (accuracy NaN)."""

    validation: np.ndarray
    test: np.ndarray
    accuracy: np.ndarray


class _Log:
    """Collects what cohorts of (seeds x members) give, segment by segment."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._rows: list[list[np.ndarray]] = []

    def add(self, cohort: Cohort, validation: np.ndarray) -> None:
        split = cohort.task.splits.test
        assert split is not None
        safe = np.nan_to_num(validation, nan=np.inf)
        self._rows.append([values.reshape(self._seeds, -1) for values in (safe, *cohort.score(split))])

    def result(self) -> Result:
        """Cut or filled up to the budget."""
        filled = []
        for parts, empty in zip(zip(*self._rows, strict=True), (np.inf, np.inf, np.nan), strict=True):
            values = np.concatenate(parts, axis=1)[:, :BUDGET]
            filled.append(np.pad(values, ((0, 0), (0, BUDGET - values.shape[1])), constant_values=empty))
        return Result(validation=filled[0], test=filled[1], accuracy=filled[2])


Method = Callable[[WorldTask, int, int], Result]
"""``method(task, seeds, seed)``."""


def controlled(make_policy: Callable[[], Policy], *, copy_every: int = 4) -> Method:
    """A policy behind the controller of this package."""

    def run(task: WorldTask, seeds: int, seed: int) -> Result:
        cohort = Cohort(task, range(seeds * MEMBERS), seed=seed)
        log = _Log(seeds)
        controllers = [
            make_controller(
                task, make_policy(), members=MEMBERS, segments=SEGMENTS, seed=seed + n, copy_every=copy_every
            )
            for n in range(seeds)
        ]
        rollout = Rollout(cohort, controllers, segments=SEGMENTS)

        def measure(segment: int) -> None:
            log.add(cohort, np.stack([played.validation[segment] for played in rollout.played]))

        rollout.play(measure)
        return log.result()

    return run


def static(make_starts: Callable[[WorldTask, np.random.Generator], np.ndarray], *, cosine: bool) -> Method:
    """Fixed positions (members, hyperparameters), with or without a cosine."""

    def run(task: WorldTask, seeds: int, seed: int) -> Result:
        cohort = Cohort(task, range(seeds * MEMBERS), seed=seed)
        log = _Log(seeds)
        positions = np.concatenate([make_starts(task, np.random.default_rng([seed, n])) for n in range(seeds)])
        for segment in range(SEGMENTS):
            _apply(cohort, positions, segment, cosine)
            log.add(cohort, cohort.train().validation_loss)
        return log.result()

    return run


def pbt(make_starts: Callable[[WorldTask, np.random.Generator], np.ndarray], *, interval: int, cosine: bool) -> Method:
    """Ray's ``PopulationBasedTraining``: every ``interval`` segments the lowest quarter takes weights and values of a
    random one of the upper quarter; each value is drawn anew with probability 0.25, otherwise multiplied by 1.2 or 0.8
    (``ray/tune/schedulers/pbt.py``, ``_exploit`` and ``_explore``; synchronous)."""

    def run(task: WorldTask, seeds: int, seed: int) -> Result:
        cohort = Cohort(task, range(seeds * MEMBERS), seed=seed)
        log = _Log(seeds)
        rngs = [np.random.default_rng([seed, n]) for n in range(seeds)]
        positions = np.concatenate([make_starts(task, rng) for rng in rngs])
        for segment in range(SEGMENTS):
            _apply(cohort, positions, segment, cosine)
            loss = cohort.train().validation_loss
            log.add(cohort, loss)
            if (segment + 1) % interval == 0 and segment + 1 < SEGMENTS:
                _exploit(task, cohort, positions, np.nan_to_num(loss, nan=np.inf).reshape(seeds, -1), rngs)
        return log.result()

    return run


def _exploit(
    task: WorldTask, cohort: Cohort, positions: np.ndarray, losses: np.ndarray, rngs: list[np.random.Generator]
) -> None:
    quarter = math.ceil(MEMBERS * 0.25)
    targets, sources = [], []
    for group, (rng, loss) in enumerate(zip(rngs, losses, strict=True)):
        order = np.argsort(loss) + group * MEMBERS
        for loser in order[-quarter:]:
            winner = int(rng.choice(order[:quarter]))
            targets.append(int(loser))
            sources.append(winner)
            positions[loser] = [_explore(h, p, rng) for h, p in zip(task.space, positions[winner], strict=True)]
    cohort.take(targets, sources, [False] * len(targets))


def _explore(hyperparameter, position: float, rng: np.random.Generator) -> float:
    if rng.random() < 0.25:
        return float(rng.random())
    value = float(hyperparameter.decode(position)) * (1.2 if rng.random() > 0.5 else 0.8)
    return float(hyperparameter.encode(value))


def successive_halving(*, cosine: bool) -> Method:
    """ASHA's rungs (Li et al. 2020, algorithm 2; Ray's default reduction factor 4, grace period 1), filled
    synchronously, which is ASHA without its mistaken promotions: 64 configurations for one segment, 16 to the 4th, 4 to
    the 16th, 1 to the 20th: 164 member-segments, of which the last 4 are cut."""

    def run(task: WorldTask, seeds: int, seed: int) -> Result:
        members = 64
        cohort = Cohort(task, range(seeds * members), seed=seed)
        log = _Log(seeds)
        positions = np.random.default_rng([seed, 0xA5]).random((seeds * members, len(task.space)))
        for segment in range(SEGMENTS):
            _apply(cohort, positions, segment, cosine)
            loss = cohort.train().validation_loss
            log.add(cohort, loss)
            keep = {0: 16, 3: 4, 15: 1}.get(segment)
            if keep is not None:
                order = np.argsort(np.nan_to_num(loss, nan=np.inf).reshape(seeds, -1), axis=1, kind="stable")[:, :keep]
                kept = (order + np.arange(seeds)[:, None] * loss.size // seeds).ravel()
                cohort, positions = cohort.narrowed(kept.tolist()), positions[kept]
        return log.result()

    return run


def tpe(*, cosine: bool) -> Method:
    """Optuna's own ``TPESampler``: eight trials one after the other, each trained to its end."""

    def run(task: WorldTask, seeds: int, seed: int) -> Result:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        names = task.space.names
        studies = [
            optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed + n, n_startup_trials=3))
            for n in range(seeds)
        ]
        log = _Log(seeds)
        for number in range(MEMBERS):
            trials = [study.ask() for study in studies]
            # Positions are uniform over each domain's own scale, as Optuna's log distributions are.
            positions = np.array([[trial.suggest_float(name, 0.0, 1.0) for name in names] for trial in trials])
            cohort = Cohort(task, range(seeds), seed=seed + number)
            best = np.full(seeds, np.inf)
            for segment in range(SEGMENTS):
                _apply(cohort, positions, segment, cosine)
                loss = np.nan_to_num(cohort.train().validation_loss, nan=np.inf)
                best = np.minimum(best, loss)
                log.add(cohort, loss)
            for study, trial, value in zip(studies, trials, best, strict=True):
                study.tell(trial, float(min(value, 1e6)))
        return log.result()

    return run


def uniform(task: WorldTask, rng: np.random.Generator) -> np.ndarray:
    """Anywhere in the space."""
    return rng.random((MEMBERS, len(task.space)))


def default(task: WorldTask, rng: np.random.Generator) -> np.ndarray:
    """What one writes by hand: 1e-3 for Adam and 0.1 for SGD, weight decay 1e-4, nothing else; eight seeds."""
    return _by_hand(task, np.full(MEMBERS, 1e-3 if task.optimizer != "sgd" else 0.1))


def grid(task: WorldTask, rng: np.random.Generator) -> np.ndarray:
    """Eight learning rates, a factor 3 apart, about the hand default."""
    centre = 1e-3 if task.optimizer != "sgd" else 0.1
    return _by_hand(task, centre * 3.0 ** np.arange(-5, 3))


def _by_hand(task: WorldTask, rates: np.ndarray) -> np.ndarray:
    values = {"weight_decay": 1e-4, "dropout": 0.0, "label_smoothing": 0.0}
    rows = [{**values, "learning_rate": float(rate)} for rate in rates]
    return np.array([task.space.encode({n: row[n] for n in task.space.names}) for row in rows])


def methods(directory: str | None = None) -> Mapping[str, Method]:
    """All of them; ``directory``: of a controller other than the shipped one."""
    fresh = initial_weights(0)
    return {
        "random": static(uniform, cosine=False),
        "random + cosine": static(uniform, cosine=True),
        "hand default + cosine": static(default, cosine=True),
        "grid + cosine": static(grid, cosine=True),
        "TPE": tpe(cosine=False),
        "TPE + cosine": tpe(cosine=True),
        "ASHA": successive_halving(cosine=False),
        "ASHA + cosine": successive_halving(cosine=True),
        "PBT, every segment": pbt(uniform, interval=1, cosine=False),
        "PBT, every 2nd": pbt(uniform, interval=2, cosine=False),
        "PBT + cosine": pbt(uniform, interval=2, cosine=True),
        "PBT from the grid": pbt(grid, interval=1, cosine=False),
        "PBT from the grid + cosine": pbt(grid, interval=2, cosine=True),
        "controller, random actions": controlled(Random),
        "controller, does nothing": controlled(Cosine),
        "controller, no schedule": controlled(Fixed),
        "controller, untrained": controlled(lambda: TokenPolicy(fresh)),
        "ours, zero-shot": controlled(lambda: Pretrained(directory)),
        "ours, learning on": controlled(lambda: Pretrained(directory, learn=True)),
    }


def _apply(cohort: Cohort, positions: np.ndarray, segment: int, cosine: bool) -> None:
    factor = schedule_factor("cosine" if cosine else "constant", segment, SEGMENTS)
    cohort.apply([cohort.task.space.decode(row, factor) for row in positions.tolist()])
