"""The one-line swap: an agent in place of ``PopulationBasedTraining`` in anybody's ``tune.Tuner``.

This file only puts parts together. What is pickled with the Tuner are the settings; the parts that live (controller,
agent, files) are made when the first trial arrives, and made anew when a run is restored.
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

from raytune_rl.controller.controller import Controller
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.floor import Floor
from raytune_rl.controller.policy import Policy
from raytune_rl.controller.schedule import Schedule
from raytune_rl.errors import BadInput
from raytune_rl.hyperparameters import SearchSpace, Spec
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import Reward, improvement
from raytune_rl.pretrained import Pretrained
from raytune_rl.records import Mode, Value
from raytune_rl.rllib.settings import Agent
from raytune_rl.tune.trials import adapter as trial_adapter
from raytune_rl.tune.trials.scheduler import OneMemberPerTrialScheduler as TrialScheduler
from raytune_rl.tune.trials.state import TrialState

logger = logging.getLogger(__name__)

SAFE = Floor()


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
        agent: who decides: the shipped controller ``Pretrained()`` by default, an ``Agent()`` that learns from nothing,
            or a rule such as ``PBT()``.
        metric, mode: what trials are judged by; usually given to ``TuneConfig`` instead.
        segment_length: reports between two decisions. A function is interrupted only where it reports a checkpoint, so
            give the number of reports between those.
        segments: decisions after which a trial is stopped; ``None`` leaves that to ``RunConfig(stop=...)``.
        reward: what the agent is paid.
        copy_every: weights may be copied at every n-th segment only.
        stopping: whether the agent may stop trials.
        schedule: laid over hyperparameters of the role learning_rate.
        failures: what happens to trials whose metric is NaN or infinite.
        floor: when a trial that a change has ruined goes back to its own best; ``None`` leaves that to the agent.
        synchronous: let all trials wait for each other after every segment and decide for all at once; reproducible,
            and slow.
        seed: all randomness of the decisions derives from it.

    Raises:
        BadInput: (a ``ValueError``) one sentence naming the argument, its value and what would be right.
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
        schedule: Schedule = "constant",
        failures: FailurePolicy | None = None,
        floor: Floor | None = SAFE,
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
        self.schedule: Schedule = schedule
        self.failures = failures or FailurePolicy()
        self.floor = floor
        self.synchronous = synchronous
        self.seed = seed
        self._given: tuple[str | None, Mode | None] = (metric, mode)
        self._metric, self._mode = metric, mode
        self._population = 1
        self._horizon: int | None = None
        self._core: TrialScheduler | None = None

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

    def build(self, state: TrialState | None) -> TrialScheduler:
        """The live parts, put together for one run."""
        assert self._metric is not None and self._mode is not None
        # The policy is bound to this run; the one in the settings stays as it was, for the next.
        population = self._population
        policy = self.agent.build(population) if isinstance(self.agent, Agent) else copy.deepcopy(self.agent)
        segments = self.segments
        if segments is None and self._horizon is not None:
            segments = -(-self._horizon // self.segment_length)
        controller = Controller(
            space=self.space,
            observation=ObservationSpec(self.space),
            actions=ActionSpec(self.space, stopping=self.stopping, copy_every=policy.copy_every or self.copy_every),
            reward=self.reward,
            policy=policy,
            metric=self._metric,
            mode=self._mode,
            population=self._population,
            segments=segments,
            seed=self.seed,
            schedule=self.schedule,
            failures=self.failures,
            floor=self.floor,
        )
        return TrialScheduler(
            controller,
            segment_length=self.segment_length,
            synchronous=self.synchronous,
            horizon=self._horizon if self.segments is None else None,
            state=state,
            starts=self._starts,
            population=self._population,
        )

    def _begin(self, tune_controller: Any, trial: Trial) -> TrialScheduler:
        """Begin a run, or go on with one that Tune has just restored."""
        state = TrialState(trial.storage.storage_filesystem, trial.storage.experiment_fs_path)
        saved = state.load()
        # A state in the same folder whose trials have other names belongs to a run that this one replaces.
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
    def _running(self) -> TrialScheduler:
        assert self._core is not None, "Tune adds trials before anything else"
        return self._core

    def __getstate__(self) -> dict[str, Any]:
        """What ``tuner.pkl`` gets: the settings. An agent's actor, a thread or a file would fail at the restore."""
        return {**self.__dict__, "_core": None}


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _same_run(trial: Trial, trial_id: str) -> bool:
    """Tune names the trials of one run ``<run>_<number>``."""
    return bool(trial.trial_id.rpartition("_")[0] == trial_id.rpartition("_")[0]) or trial.trial_id == trial_id
