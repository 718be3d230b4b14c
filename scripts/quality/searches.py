"""Methods that start configurations and end the bad ones early: TPE, ASHA, BOHB.

Each decision is the library's own: Optuna's sampler, the rungs of Ray's ``ASHAScheduler``, HpBandSter's BOHB in the
brackets of Ray's ``HyperBandForBOHB``. Only the training is packed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from ray.tune.schedulers.async_hyperband import _Bracket
from ray.tune.schedulers.hb_bohb import HyperBandForBOHB

from quality.harness import GlobalRandomness, Log, Method, Plan, Result, Starts, apply
from quality.protocol import SEGMENTS, WORST
from quality.starts import uniform
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.task import WorldTask

REDUCTION = 4
"""Of ASHA and BOHB alike: Ray's default for ASHA. With its default for BOHB, 3, the budget would end within a band."""


def tpe(*, cosine: bool, starts: Starts | None = None) -> Method:
    """Optuna's own ``TPESampler``: one trial after the other, each trained to its end, judged by its best segment.

    Of eight trials the first three are random, not the default ten, which would leave none to the model; ``starts`` are
    enqueued: half of the trials, at most eight. Positions are uniform over each hyperparameter's own scale, as Optuna's
    log distributions are.
    """

    def run(task: WorldTask, plan: Plan) -> Result:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        names = task.space.names
        random_trials = min(10, max(1, plan.members * 3 // 8))
        studies = []
        for run, rng in enumerate(plan.generators()):
            sampler = optuna.samplers.TPESampler(seed=plan.seed + run, n_startup_trials=random_trials)
            study = optuna.create_study(sampler=sampler)
            if starts is not None:
                for position in starts(task, min(8, plan.members // 2), rng).tolist():
                    study.enqueue_trial(dict(zip(names, position, strict=True)))
            studies.append(study)
        log = Log(plan)
        for number in range(plan.members):
            trials = [study.ask() for study in studies]
            positions = np.array([[trial.suggest_float(name, 0.0, 1.0) for name in names] for trial in trials])
            cohort = Cohort(task, range(plan.seeds), seed=plan.seed + 1000 * number)
            best = np.full(plan.seeds, WORST)
            for segment in range(SEGMENTS):
                apply(cohort, positions, segment, cosine)
                best = np.minimum(best, log.add(cohort, cohort.train().validation_loss)[:, 0])
            for study, trial, value in zip(studies, trials, best, strict=True):
                study.tell(trial, float(value))
        return log.result()

    return run


@dataclass(frozen=True)
class _Trial:
    """As much of a Tune trial as a rung looks at."""

    trial_id: int


def asha(*, cosine: bool, starts: Starts | None = None) -> Method:
    """ASHA (Li et al. 2020) with the rungs of Ray's ``ASHAScheduler`` (grace period 1): as many trials side by side as
    the population has members; where one is stopped, the next one begins, with weights that have not been trained.

    ``starts``: the first configurations; all later ones are random.
    """

    def run(task: WorldTask, plan: Plan) -> Result:
        cohort = Cohort(task, range(plan.seeds * plan.members), seed=plan.seed, restartable=True)
        log = Log(plan)
        generators = plan.generators()
        first = uniform if starts is None else starts
        positions = np.concatenate([first(task, plan.members, rng) for rng in generators])
        ages = np.zeros(len(positions), dtype=np.int64)
        trials = np.arange(len(positions))
        rungs = [_Bracket(1, SEGMENTS, REDUCTION, 0) for _ in range(plan.seeds)]
        for _ in range(SEGMENTS):
            apply(cohort, positions, ages.tolist(), cosine)
            losses = np.minimum(log.add(cohort, cohort.train().validation_loss), WORST)
            ages += 1
            ended = []
            for run, rng in enumerate(generators):
                for member in rng.permutation(plan.members):  # reports come in any order
                    slot = run * plan.members + int(member)
                    age = int(ages[slot])
                    decision = rungs[run].on_result(_Trial(int(trials[slot])), age, -float(losses[run, member]))
                    if decision == "STOP" or age >= SEGMENTS:
                        ended.append(slot)
                        positions[slot], ages[slot] = uniform(task, 1, rng)[0], 0
                        trials[slot] += len(trials)
            cohort.restart(ended)
        return log.result()

    return run


def bohb(*, cosine: bool) -> Method:
    """BOHB (Falkner et al. 2018): HpBandSter's own model is asked for configurations and told each rung's results, as
    Ray's ``TuneBOHB`` does, in the brackets of Ray's ``HyperBandForBOHB``. The configurations of a bracket are asked
    for together, as with so many workers."""

    def run(task: WorldTask, plan: Plan) -> Result:
        samplers = [_Sampler(task.space.names, plan.seed + run) for run in range(plan.seeds)]
        log = Log(plan)
        bracket = 0
        while log.spent < plan.budget:
            _play_bracket(task, plan, log, samplers, bracket, cosine)
            bracket += 1
        return log.result()

    return run


def rungs_of(bracket: int) -> list[tuple[int, int]]:
    """(members, segments trained by then) of every rung of a bracket, largest bracket first, as Ray has them."""
    hyperband = HyperBandForBOHB(max_t=SEGMENTS, reduction_factor=REDUCTION)
    sizes = [s for s in reversed(range(hyperband._s_max_1)) if hyperband._get_r0(s) > 0]
    size = sizes[bracket % len(sizes)]
    count, length = hyperband._get_n0(size), hyperband._get_r0(size)
    rungs = [(count, length)]
    for _ in range(size):
        count, length = int(np.ceil(count / REDUCTION)), min(length * REDUCTION, SEGMENTS)
        rungs.append((count, length))
    return rungs


def _play_bracket(task: WorldTask, plan: Plan, log: Log, samplers: list[_Sampler], bracket: int, cosine: bool) -> None:
    rungs = rungs_of(bracket)
    positions = np.concatenate([[sampler.ask() for _ in range(rungs[0][0])] for sampler in samplers])
    cohort = Cohort(task, range(len(positions)), seed=plan.seed + 1000 * bracket)
    done = 0
    for index, (count, until) in enumerate(rungs):
        for segment in range(done, until):
            apply(cohort, positions, segment, cosine)
            losses = log.add(cohort, cohort.train().validation_loss)
        log.in_turn(until - done)
        done = until
        for run, sampler in enumerate(samplers):
            for member in range(count):
                sampler.tell(positions[run * count + member], float(min(losses[run, member], WORST)), until)
        if index + 1 < len(rungs):
            order = np.argsort(losses, axis=1, kind="stable")[:, : rungs[index + 1][0]]
            kept = (order + count * np.arange(plan.seeds)[:, None]).ravel()
            cohort, positions = cohort.narrowed(kept.tolist()), positions[kept]


class _Job:
    """As much of an HpBandSter job as its model looks at."""

    exception = None

    def __init__(self, config: dict[str, float], loss: float, budget: int) -> None:
        self.kwargs = {"config": config, "budget": float(budget)}
        self.result = {"loss": loss}


class _Sampler:
    """HpBandSter's BOHB over positions in [0, 1]."""

    def __init__(self, names: tuple[str, ...], seed: int) -> None:
        import ConfigSpace
        from hpbandster.optimizers.config_generators.bohb import BOHB

        space = ConfigSpace.ConfigurationSpace(seed=seed)
        space.add([ConfigSpace.UniformFloatHyperparameter(name, 0.0, 1.0) for name in names])
        self._names = names
        self._randomness = GlobalRandomness(seed)
        self._bohb = BOHB(space)
        self.modelled = 0
        """Configurations that came from the model, not from chance."""

    def ask(self) -> list[float]:
        with self._randomness, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ConfigSpace and statsmodels announce changes to come
            config, about = self._bohb.get_config(None)
        self.modelled += bool(about["model_based_pick"])
        return [float(config[name]) for name in self._names]

    def tell(self, position: np.ndarray, loss: float, budget: int) -> None:
        config = dict(zip(self._names, position.tolist(), strict=True))
        with self._randomness, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._bohb.new_result(_Job(config, loss, budget))
