"""Turns reports into decisions.

The control flow is inverted: Tune pushes results, RLlib pulls episodes, and neither may own the other's loop. So this
class owns no loop: a driver that has reports calls ``step`` and carries the decisions out. It does no I/O, starts
nothing and imports neither Ray nor torch, so the same code drives real trials, packed populations and recorded traces.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raytune_rl.combining.contribution import EvaluationTargets
from raytune_rl.controller.decisions import DecisionFactory
from raytune_rl.controller.endings import ending, is_last_segment, missing_metric
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.histories import MemberHistories, MemberHistory
from raytune_rl.controller.incumbent import IncumbentTracker
from raytune_rl.controller.islands import Islands, IslandView
from raytune_rl.controller.observer import Observer
from raytune_rl.controller.policy import Choice, Policy, Situation
from raytune_rl.controller.rollback import Floor, score_fall
from raytune_rl.controller.schedule import LearningRateSchedule
from raytune_rl.controller.step_inputs import StepInputs
from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import Reward
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Decision, Incumbent, Mode, Report, Step, Value

logger = logging.getLogger(__name__)


class Controller:
    """The decisions for one population.

    Args:
        space: the hyperparameters.
        observation, actions, reward: the decision process.
        policy: what chooses; bound here.
        metric, mode: what members are judged by.
        population: number of members, for the spread of starting values (more may join).
        segments: length of a member's training; ``None`` = unknown (something else stops it).
        end: segments after which the controller stops a member, where something else (a refit) uses the rest of
            ``segments``; by default ``segments``.
        schedule: of the learning rates, unless the policy requires one.
        target: stop everything once the metric has reached this value.
        agent_starts: let the policy's first action choose the starting values instead of spreading them.
        failures: what happens to members that fail, diverge or hang.
        floor: when a member that a change has ruined returns to its own best; ``None`` = never.
        timed: whether measured times enter observations and rewards. They differ between any two runs, so a run that
            must be reproducible excludes them.
        seed: all randomness derives from it, per member and segment.
        evaluation_targets: of the examples that members report predictions for, where the objective is the ensemble.

    Attributes:
        stopping: why everything is being stopped; ``None`` while it is not.
        problem: a mistake of the user's that only a report could show, as one sentence.
        trouble: the last line of the newest error that a member reported.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        observation: ObservationSpec,
        actions: ActionSpec,
        reward: Reward,
        policy: Policy,
        metric: str,
        mode: Mode,
        population: int,
        segments: int | None,
        seed: int,
        end: int | None = None,
        schedule: LearningRateSchedule = "constant",
        target: float | None = None,
        agent_starts: bool = False,
        failures: FailurePolicy | None = None,
        floor: Floor | None = None,
        timed: bool = True,
        evaluation_targets: EvaluationTargets | None = None,
    ) -> None:
        required = policy.requirements
        self.space = space
        self.observation = observation
        self.actions = actions
        self.policy = policy
        self.metric, self.mode = metric, mode
        self.segments = segments
        self._end = end
        self.seed = seed
        self.schedule = required.schedule or schedule
        self.agent_starts = agent_starts or required.starts
        self.failures = failures or FailurePolicy()
        self.floor = None if required.prescribed is not None else floor  # prescribed values hold, good or bad
        self.stopping: str | None = None
        self.problem: str | None = None
        self.trouble: str | None = None
        self.evaluation_targets = evaluation_targets
        self._decisions = DecisionFactory(
            space=space, schedule=self.schedule, segments=segments, prescribed=required.prescribed
        )
        self._histories = MemberHistories()
        self._tracker = IncumbentTracker(metric=metric, mode=mode, target=target)
        self._observer = Observer(
            self._histories,
            self._tracker,
            observation=observation,
            actions=actions,
            reward=reward,
            islands=Islands(population, required.island_size if evaluation_targets is None else None),
            segments=segments,
            timed=timed,
            evaluation_targets=evaluation_targets,
        )
        self._spread = space.spread(population, np.random.default_rng([seed, 0x5EED]))
        policy.bind(observation, actions, seed=seed)

    # -- what a driver calls ---------------------------------------------------------------------------------------

    @property
    def members(self) -> dict[int, MemberState]:
        """The newest state of every member, by index."""
        return self._histories.states

    @property
    def end(self) -> int | None:
        """Segments after which the controller stops a member; ``None`` = it never does."""
        return self.segments if self._end is None else self._end

    @property
    def incumbent(self) -> Incumbent | None:
        """The best of all reports so far."""
        return self._tracker.incumbent

    def begin(self, member: int, hyperparameters: Mapping[str, Value] | None = None) -> Decision:
        """The decision that opens a member's training. Asked again (after a crash), it answers the same.

        Given values are used unchanged. Without them the member gets its share of the spread, or the policy chooses.
        """
        if member in self._histories:
            return self._histories[member].start
        if hyperparameters is not None:
            decision = self._decisions.make(member, 0, self.space.encode(hyperparameters))
            decision = replace(decision, hyperparameters={**decision.hyperparameters, **hyperparameters})
        elif self.agent_starts:
            situation = self.opening(member)
            decision = self._first(situation, self.policy.act([situation])[0])
        else:
            spread = self._spread
            decision = self._decisions.make(member, 0, spread[member % len(spread)])
        self._join(decision)
        return decision

    def begin_all(self, members: Iterable[int]) -> list[Decision]:
        """``begin`` without given values for all of them. A policy that chooses the starts is asked once."""
        wanted = list(members)
        openings = [self.opening(m) for m in wanted if m not in self._histories] if self.agent_starts else []
        choices = self.policy.act(openings) if openings else []
        for situation, choice in zip(openings, choices, strict=True):
            self._join(self._first(situation, choice))
        return [self.begin(member) for member in wanted]

    def step(self, reports: Sequence[Report], *, steered: bool = True) -> Step:
        """Take reports that arrived together and decide about their members.

        All reports are taken in before the first decision, so that members that report together see each other's newest
        states. A report of a segment that was reported before rewinds its member.

        Args:
            reports: at most one per member.
            steered: ``False`` asks no policy, for members whose training cannot be changed: they go on as they are
                until they end or fail.
        """
        return self.decide(self.take(reports), steered=steered)

    def take(self, reports: Sequence[Report]) -> StepInputs:
        """The first half of ``step``: rewards and observations. ``decide`` must follow.

        For drivers that get their actions from outside (``guided.Guided``) or ask one policy for several populations.
        """
        before = [self._histories.state_before(report) for report in reports]
        opened = [
            self._histories[report.member].decisions.get(report.segment) or self._decisions.reconstructed(report, state)
            for report, state in zip(reports, before, strict=True)
        ]
        self._observer.enter(reports, opened, before)
        self.problem = self.problem or missing_metric(reports, self.metric)
        if self.problem is not None:
            self.stop_all(self.problem)
        if self._tracker.target_reached:
            self.stop_all(self._tracker.target_reached)
        endings = [ending(report, segments=self.end, stopping=bool(self.stopping)) for report in reports]
        return self._observer.step_inputs(reports, opened, before, endings)

    def situations(self, inputs: StepInputs) -> list[Situation]:
        """The situations for the policy, one per member whose episode continues."""
        return [
            Situation(
                member=report.member,
                segment=report.segment + 1,
                first=False,
                observation=observation,
                seed=self._decision_seed(report.member, report.segment + 1),
            )
            for report, observation, end in zip(inputs.reports, inputs.observations, inputs.endings, strict=True)
            if end is None
        ]

    def decide(self, inputs: StepInputs, choices: Sequence[Choice] | None = None, *, steered: bool = True) -> Step:
        """The second half of ``step``.

        Args:
            inputs: from ``take``.
            choices: the policy's, one per entry of ``situations``, where the driver has asked it already (for several
                populations at once, ``worlds.rollout``); ``None`` asks it here.
            steered: as in ``step``.
        """
        if choices is None:
            situations = self.situations(inputs) if steered else []
            choices = self.policy.act(situations) if situations else []
        asked = [i for i, end in enumerate(inputs.endings) if end is None and steered]
        choice_of = dict(zip(asked, choices, strict=True))
        decisions = []
        for i, (report, state) in enumerate(zip(inputs.reports, inputs.states, strict=True)):
            if i in choice_of:
                decision = self._steered(state, inputs.observations[i], choice_of[i], inputs.views[i])
            elif inputs.endings[i] is None:
                decision = self._unchanged(report, state)
            else:
                decision = self._ended(report, state, inputs.endings[i])
            self._histories[report.member].add_decision(decision)
            decisions.append(decision)
        return Step(
            reports=inputs.reports,
            opened=inputs.opened,
            rewards=inputs.rewards,
            decisions=tuple(decisions),
            incumbent=self.incumbent,
        )

    def opening(self, member: int) -> Situation:
        """The situation in which the policy would choose the member's starting values."""
        state = self._observer.unstarted(member)
        return Situation(
            member=member,
            segment=0,
            first=True,
            observation=self._observer.observe(state, IslandView.of([state], positions=len(self.space))),
            seed=self._decision_seed(member, 0),
        )

    def learn(self, *, wait: bool = False) -> None:
        """Hand the collected transitions to the policy and adopt finished updates. Blocks only with ``wait``."""
        self.policy.learn(self._histories.drain(), wait=wait)

    def stop_all(self, reason: str) -> None:
        """Every decision from now on is a stop."""
        self.stopping = self.stopping or reason

    def drop(self, members: Iterable[int]) -> None:
        """These members will not train any more."""
        self._histories.drop(members)

    def durable(self, member: int, segment: int) -> None:
        """A checkpoint of the member after ``segment`` is safe on disk (or about to be)."""
        self._histories[member].mark_durable(segment + 1)

    def get_state(self, *, sparse: bool = False) -> dict[str, Any]:
        """Everything that a restarted driver needs, as plain data and records; see ``MemberHistory.to_dict`` for
        ``sparse``."""
        return {
            **self._observer.get_state(sparse=sparse),
            "stopping": None,  # an interrupted run continues
            "policy": self.policy.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` gave."""
        self._observer.set_state(state)
        self.policy.set_state(state["policy"])

    # -- deciding --------------------------------------------------------------------------------------------------

    def _first(self, situation: Situation, choice: Choice) -> Decision:
        """The decision that opens a member's training, where the policy chooses the starting values."""
        state = self._observer.unstarted(situation.member)
        move = self.actions.apply(choice.action, first=True, state=state, population=[state], incumbent_member=None)
        return self._decisions.chosen(situation.member, 0, move, choice, situation.observation)

    def _steered(self, state: MemberState, observation: np.ndarray, choice: Choice, view: IslandView) -> Decision:
        """The policy's decision, unless the floor overrules it."""
        move = self.actions.apply(
            choice.action,
            first=False,
            state=state,
            population=view.stats,
            incumbent_member=view.incumbent_member,
        )
        if move.stop:
            self.drop([state.member])
        elif move.source.kind == "keep" and self.floor is not None and self.floor.applies(state, view.population):
            return self._rolled_back(state)
        return self._decisions.chosen(state.member, state.segment, move, choice, observation)

    def _rolled_back(self, state: MemberState) -> Decision:
        """The floor's decision, for a policy that would train on with ruined weights.

        The policy must not learn from an action that was not carried out. So its episode ends before that action
        (truncated: the critic estimates what would have followed), and a new one begins with its next choice.
        """
        fall, best = score_fall(state), state.best_segment
        logger.info("member %d has fallen by %.2g since segment %s: goes back there", state.member, fall, best)
        self._histories.truncate_episode(state.member)
        self._histories[state.member].add_state(replace(state, returned_segment=state.segment))
        return self._decisions.rollback(state)

    def _unchanged(self, report: Report, state: MemberState) -> Decision:
        """The decision about a member whose training cannot be changed. Nothing of it is the policy's, so an episode
        that began with the policy's start ends before it (truncated)."""
        self._histories.truncate_episode(report.member)
        return self._decisions.unchanged(report, state)

    def _ended(self, report: Report, state: MemberState, why: str | None) -> Decision:
        """The decision at the end of an episode: a stop, or a restart after a failure."""
        member, segment, history = report.member, report.segment, self._histories[report.member]
        if report.error:
            self.trouble = report.error.rstrip().rpartition("\n")[2]
            logger.warning("member %d, segment %d:\n%s", member, segment, report.error.rstrip())
        if why == "failed" and state.restarts > self.failures.max_restarts:
            logger.warning("member %d %s in segment %d: given up", member, report.status, segment)
            history.add_state(replace(state, alive=False))
        elif why == "failed" and not self.stopping and not is_last_segment(report, segments=self.end):
            logger.warning("member %d %s in segment %d: restarts from its own best", member, report.status, segment)
            history.episode += 1
            return self._decisions.restart(report, state, history.start)
        return self._decisions.stop(state)

    def _join(self, decision: Decision) -> None:
        history = MemberHistory.begin(decision, self._observer.initial_ensemble_stats)
        self._histories.add(decision.member, history)

    def _decision_seed(self, member: int, segment: int) -> int:
        episode = self._histories[member].episode if member in self._histories else 0
        return int(np.random.SeedSequence([self.seed, member, segment, episode]).generate_state(1)[0])
