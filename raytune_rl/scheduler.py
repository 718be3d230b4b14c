"""``MetaAgentScheduler``: replaces ``PopulationBasedTraining`` in an existing ``tune.Tuner``, with one changed line.

This file only puts parts together. Only the settings are pickled with the Tuner; controller, agent and files are made
when the first trial arrives, and again when a run is restored.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.result import DEFAULT_METRIC
from ray.tune.schedulers import FIFOScheduler

from raytune_rl.controller.assembly import assemble
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.policy import Policy
from raytune_rl.controller.rollback import DEFAULT_FLOOR, Floor
from raytune_rl.controller.schedule import LearningRateSchedule
from raytune_rl.errors import BadInput
from raytune_rl.hyperparameters import SearchSpace, Spec
from raytune_rl.mdp.reward import Reward, improvement
from raytune_rl.pretrained import Pretrained
from raytune_rl.records import Mode, Value
from raytune_rl.rllib.settings import Agent
from raytune_rl.tune.trials import adapter as trial_adapter
from raytune_rl.tune.trials.scheduler import OneMemberPerTrialScheduler
from raytune_rl.tune.trials.state import TrialState

logger = logging.getLogger(__name__)


class MetaAgentScheduler(FIFOScheduler):
    """A Ray Tune scheduler that lets an RLlib agent steer the trials of a run.

    Every trial is a member of a population. After each segment the agent sees how the member's training goes and
    decides how its hyperparameters move and whether it takes weights from another member. Class Trainables with
    ``reset_config`` are changed while they run; functions, and trials that take turns on fewer slots, are paused and
    restored.

    The starting values are those of ``param_space``; hyperparameters that it lacks are spread over their ranges.

    Args:
        hyperparameters: names of entries of ``param_space`` (``a/b`` = nested) to Ray Tune domains, bare or in a role
            (``roles.learning_rate(tune.loguniform(1e-4, 2e-2))``).
        agent: what decides: the shipped controller ``Pretrained()`` by default, an ``Agent()`` that learns from
            scratch, or a rule such as ``PBT()``.
        metric, mode: what trials are judged by; usually given to ``TuneConfig`` instead.
        segment_length: reports between two decisions. A function is interrupted only where it reports a checkpoint, so
            give the number of reports between those.
        segments: decisions after which a trial is stopped; ``None`` leaves that to ``RunConfig(stop=...)``.
        reward: the agent's reward, ``improvement()`` by default.
        copy_every: weights may be copied at every n-th segment only.
        stopping: whether the agent may stop trials.
        schedule: multiplies hyperparameters of the role ``learning_rate``, unless the agent requires a schedule.
        failures: what happens to trials whose metric is NaN or infinite.
        floor: when a trial that a change has ruined returns to its own best; ``None`` leaves that to the agent.
        synchronous: let all trials wait for each other after every segment and decide for all at once. Slow, but
            reproducible: measured times then do not enter observations and rewards either.
        seed: all randomness of the decisions derives from it.

    Raises:
        BadInput: a ``ValueError`` whose message names the argument, its value and what would be right.
    """

    _supports_buffered_results: ClassVar[bool] = False

    def __init__(
        self,
        *,
        hyperparameters: Mapping[str, Spec | Any],
        agent: Agent | Policy | None = None,
        metric: str | None = None,
        mode: Mode | None = None,
        segment_length: int = 1,
        segments: int | None = None,
        reward: Reward | None = None,
        copy_every: int = 4,
        stopping: bool = False,
        schedule: LearningRateSchedule = "constant",
        failures: FailurePolicy | None = None,
        floor: Floor | None = DEFAULT_FLOOR,
        synchronous: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"segment_length": segment_length, "segments": segments, "copy_every": copy_every}.items():
            if not (value is None and name == "segments") and not _is_positive(value):
                raise BadInput(f"{name} is {value!r}; it must be a whole number of at least 1.")
        if mode not in (None, "min", "max"):
            raise BadInput(f"mode is {mode!r}; it must be 'min' or 'max'.")
        if agent is not None and not isinstance(agent, Agent | Policy):
            raise BadInput(f"agent is {agent!r}; it must be an Agent or a policy such as PBT() or Random().")
        try:
            self.space = SearchSpace.from_specs(hyperparameters)
        except ValueError as error:
            raise BadInput(str(error)) from None
        self.agent: Agent | Policy = Pretrained() if agent is None else agent
        self.segment_length = segment_length
        self.segments = segments
        self.reward = improvement() if reward is None else reward
        self.copy_every = copy_every
        self.stopping = stopping
        self.schedule: LearningRateSchedule = schedule
        self.failures = failures or FailurePolicy()
        self.floor = floor
        self.synchronous = synchronous
        self.seed = seed
        self._given: tuple[str | None, Mode | None] = (metric, mode)
        self._metric, self._mode = metric, mode
        self._population = 1
        self._horizon: int | None = None
        self._core: OneMemberPerTrialScheduler | None = None

    # -- Tune's hooks --------------------------------------------------------------------------------------------------

    def set_search_properties(self, metric: str | None, mode: Any, **spec: Any) -> bool:
        """Called by Tune when a run begins, with what ``TuneConfig`` and ``RunConfig`` say."""
        own_metric, own_mode = self._given
        if (own_metric and metric) or (own_mode and mode):
            return False
        self._metric = own_metric or metric or DEFAULT_METRIC
        self._mode = own_mode or mode
        if self._mode not in ("min", "max"):
            raise BadInput("MetaAgentScheduler needs a mode: TuneConfig(metric=..., mode='min' or 'max').")
        self._population = max(self._population, int(spec.get("num_samples") or 1))
        stop = spec.get("stop")
        limit = stop.get("training_iteration") if isinstance(stop, Mapping) else None
        self._horizon = int(limit) if isinstance(limit, int | float) and limit >= 1 else None
        self._core = None
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if self._core is None:
            self._core = self._begin(tune_controller, trial)
        self._core.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._running.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self._running.on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._running.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._running.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        return self._core.choose_trial_to_run(tune_controller) if self._core else None

    def debug_string(self) -> str:
        return f"MetaAgentScheduler with {self.agent}: {self._core.debug_string() if self._core else 'not begun'}"

    # -- composition ---------------------------------------------------------------------------------------------------

    def build(self, state: TrialState | None) -> OneMemberPerTrialScheduler:
        """Controller and policy for one run, inside the scheduler that drives its trials."""
        assert self._metric is not None and self._mode is not None
        # A policy is bound to one run, so a given one is copied.
        population = self._population
        policy = self.agent.build(population) if isinstance(self.agent, Agent) else copy.deepcopy(self.agent)
        segments = self.segments
        if segments is None and self._horizon is not None:
            segments = -(-self._horizon // self.segment_length)
        controller = assemble(
            space=self.space,
            policy=policy,
            reward=self.reward,
            metric=self._metric,
            mode=self._mode,
            population=self._population,
            segments=segments,
            synchronous=self.synchronous,
            seed=self.seed,
            copy_every=self.copy_every,
            stopping=self.stopping,
            schedule=self.schedule,
            failures=self.failures,
            floor=self.floor,
        )
        return OneMemberPerTrialScheduler(
            controller,
            segment_length=self.segment_length,
            synchronous=self.synchronous,
            horizon=self._horizon if self.segments is None else None,
            state=state,
            starts=self._starts,
            population=self._population,
        )

    def _begin(self, tune_controller: Any, trial: Trial) -> OneMemberPerTrialScheduler:
        """Begin a run, or continue one that Tune has just restored."""
        state = TrialState(trial.storage.storage_filesystem, trial.storage.experiment_fs_path)
        saved = state.load()
        # A state whose trials have other names belongs to an earlier run in the same folder, which this one replaces.
        if saved is not None and not any(_same_run(trial, known) for known in saved["members"]):
            saved = None
        if saved is not None:
            self._population = saved["population"]
        core = self.build(state)
        if saved is not None:
            state.restore_agent(core.controller.policy)
            core.set_state(saved)
            logger.info("found the state of %d trials; they go on", len(saved["members"]))
        trial_adapter.at_end(tune_controller, core.close)
        return core

    def _starts(self, member: int) -> Mapping[str, Value]:
        """Starting values for a member whose ``param_space`` has some of the hyperparameters."""
        return self.space.decode(self.space.sample(np.random.default_rng([self.seed, member])))

    @property
    def _running(self) -> OneMemberPerTrialScheduler:
        assert self._core is not None, "Tune adds trials before anything else"
        return self._core

    def __getstate__(self) -> dict[str, Any]:
        """The settings, for ``tuner.pkl``. The agent's actor, threads and open files cannot be pickled."""
        return {**self.__dict__, "_core": None}


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _same_run(trial: Trial, trial_id: str) -> bool:
    """Whether the two trials are of one run: Tune names those ``<run>_<number>``."""
    return bool(trial.trial_id.rpartition("_")[0] == trial_id.rpartition("_")[0]) or trial.trial_id == trial_id
