"""Turns reports into decisions.

The control flow is inverted: Tune pushes results, RLlib pulls episodes, and neither may own the other's loop. So this
class owns none: whoever has reports calls ``step`` and carries the decisions out. It does no I/O, starts nothing and
knows neither Ray nor torch, which is why the same code can drive real trials, packed populations and recorded traces.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raytune_rl.combining.credit import Jury
from raytune_rl.controller.drafts import chosen, draft, positions_of
from raytune_rl.controller.endings import ending, missing_metric, over
from raytune_rl.controller.failures import FailurePolicy, calmed
from raytune_rl.controller.floor import Floor, fallen
from raytune_rl.controller.incumbency import Incumbency
from raytune_rl.controller.islands import Islands, Surroundings
from raytune_rl.controller.ledger import Ledger
from raytune_rl.controller.observer import Moment, Observer
from raytune_rl.controller.policy import Choice, Policy, Situation
from raytune_rl.controller.roster import Roster
from raytune_rl.controller.schedule import Schedule, schedule_factor
from raytune_rl.controller.taken import Taken
from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import Reward
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import FLOOR, Decision, Incumbent, Mode, Report, Source, Step, Value

logger = logging.getLogger(__name__)


class Controller:
    """The decisions for one population.

    Args:
        space: the hyperparameters.
        observation, actions, reward: the decision process.
        policy: who chooses; bound here.
        metric, mode: what members are judged by.
        population: number of members, for the spread of starting values (more may join).
        segments: length of a member's training; ``None`` = unknown (somebody else stops it).
        end: segments after which it ends here, where what follows up to ``segments`` is not the controller's; by
            default ``segments``.
        target: stop everything once the metric has reached this value.
        agent_starts: let the policy's first action choose the starting values instead of spreading them.
        failures: what happens to members that go wrong.
        floor: when a member is taken back that a change has ruined; ``None`` = never.
        timed: whether measured times enter observations and rewards. No two runs measure the same, so a run that is to
            repeat bit for bit does without.
        seed: all randomness derives from it, per member and segment.
        jury: judges what members predict, where the objective is the ensemble.

    Attributes:
        stopping: why everything is being stopped, if it is.
        problem: a mistake of the user's that only a report could show, as one sentence.
        trouble: what the last failure of a member said.
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
        schedule: Schedule = "constant",
        target: float | None = None,
        agent_starts: bool = False,
        failures: FailurePolicy | None = None,
        floor: Floor | None = None,
        timed: bool = True,
        jury: Jury | None = None,
    ) -> None:
        self.space = space
        self.observation = observation
        self.actions = actions
        self.policy = policy
        self.metric, self.mode = metric, mode
        self.segments = segments
        self._end = end
        self.seed = seed
        self.schedule: Schedule = policy.schedule or schedule
        self.agent_starts = agent_starts or policy.starts
        self.failures = failures or FailurePolicy()
        self.floor = None if policy.prescribed is not None else floor  # what is prescribed stands, good or bad
        self.stopping: str | None = None
        self.problem: str | None = None
        self.trouble: str | None = None
        self.jury = jury
        self._roster = Roster()
        self._best = Incumbency(metric=metric, mode=mode, target=target)
        self._observer = Observer(
            self._roster,
            self._best,
            observation=observation,
            actions=actions,
            reward=reward,
            islands=Islands(population, policy.island if jury is None else None),
            segments=segments,
            timed=timed,
            jury=jury,
        )
        self._spread = space.spread(population, np.random.default_rng([seed, 0x5EED]))
        policy.bind(observation, actions, seed=seed)

    # -- what a driver calls ---------------------------------------------------------------------------------------

    @property
    def members(self) -> dict[int, MemberState]:
        """The newest state of every member, by index."""
        return self._roster.states

    @property
    def end(self) -> int | None:
        """Segments after which a member's training ends here."""
        return self.segments if self._end is None else self._end

    @property
    def incumbent(self) -> Incumbent | None:
        """The best of all reports so far."""
        return self._best.holder

    def begin(self, member: int, hyperparameters: Mapping[str, Value] | None = None) -> Decision:
        """The decision that opens a member's training; asked again (after a crash) it answers the same.

        Given values are taken as they are; without, the member's share of the spread is used, or the policy's choice.
        """
        if member in self._roster:
            return self._roster[member].start
        if hyperparameters is not None:
            decision = self._decision(member, 0, self.space.encode(hyperparameters))
            decision = replace(decision, hyperparameters={**decision.hyperparameters, **hyperparameters})
        elif self.agent_starts:
            situation = self.opening(member)
            decision = self._first(situation, self.policy.act([situation])[0])
        else:
            spread = self._spread
            decision = self._decision(member, 0, spread[member % len(spread)])
        self._join(decision)
        return decision

    def begin_all(self, members: Iterable[int]) -> list[Decision]:
        """``begin`` without given values for all of them. The policy, where the choices are its own, is asked once."""
        wanted = list(members)
        openings = [self.opening(m) for m in wanted if m not in self._roster] if self.agent_starts else []
        choices = self.policy.act(openings) if openings else []
        for situation, choice in zip(openings, choices, strict=True):
            self._join(self._first(situation, choice))
        return [self.begin(member) for member in wanted]

    def step(self, reports: Sequence[Report], *, steered: bool = True) -> Step:
        """Take the reports of one moment and decide about the members that made them.

        All reports enter before the first decision is made, so members that report together see each other's newest
        state. A report of a segment that was seen before rewinds its member. Without ``steered`` nobody is asked what
        to change, since nothing can be: but for an end or a failure, members go on as they are.
        """
        return self.decide(self.take(reports), steered=steered)

    def take(self, reports: Sequence[Report]) -> Taken:
        """The first half of ``step``: what the reports are paid and what is seen now.

        For drivers that are told what to do from outside (``guided.Guided``); ``decide`` comes next.
        """
        before = [self._roster.rewound(report) for report in reports]
        opened = [self._roster[r.member].decisions.get(r.segment) or self._forgotten(r) for r in reports]
        moment = Moment(reports, opened, before)
        self._observer.enter(moment)
        self.problem = self.problem or missing_metric(reports, self.metric)
        if self.problem is not None:
            self.stop_all(self.problem)
        if self._best.reached:
            self.stop_all(self._best.reached)
        endings = [ending(report, segments=self.end, stopping=bool(self.stopping)) for report in reports]
        return self._observer.seen(moment, endings)

    def asked(self, taken: Taken) -> list[Situation]:
        """What the policy decides on: the members whose episode goes on."""
        return [
            Situation(
                member=report.member,
                segment=report.segment + 1,
                first=False,
                observation=observation,
                seed=self._decision_seed(report.member, report.segment + 1),
            )
            for report, observation, end in zip(taken.reports, taken.observations, taken.endings, strict=True)
            if end is None
        ]

    def decide(self, taken: Taken, choices: Sequence[Choice] | None = None, *, steered: bool = True) -> Step:
        """The second half of ``step``. ``choices``: the policy's about what is ``asked``, where a driver has asked it
        already (about several populations at once: ``worlds.rollout``)."""
        if choices is None:
            situations = self.asked(taken) if steered else []
            choices = self.policy.act(situations) if situations else []
        asked = [i for i, end in enumerate(taken.endings) if end is None and steered]
        by_index = dict(zip(asked, choices, strict=True))
        decisions = []
        for i, (report, state) in enumerate(zip(taken.reports, taken.states, strict=True)):
            if i in by_index:
                decision = self._steered(state, taken.observations[i], by_index[i], taken.surroundings[i])
            elif taken.endings[i] is None:
                decision = self._unchanged(report, state)
            else:
                decision = self._unsteered(report, state, taken.endings[i])
            self._roster[report.member].open(decision)
            decisions.append(decision)
        return Step(
            reports=taken.reports,
            opened=taken.opened,
            rewards=taken.rewards,
            decisions=tuple(decisions),
            incumbent=self.incumbent,
        )

    def opening(self, member: int) -> Situation:
        """What the policy is shown for the member's first decision, if that decision is its own."""
        state = self._observer.unstarted(member)
        return Situation(
            member=member,
            segment=0,
            first=True,
            observation=self._observer.observe(state, Surroundings.of([state], positions=len(self.space))),
            seed=self._decision_seed(member, 0),
        )

    def learn(self, *, wait: bool = False) -> None:
        """Hand what the episodes hold to the policy and pick up finished updates. Blocks only with ``wait``."""
        self.policy.learn(self._roster.drain(), wait=wait)

    def stop_all(self, reason: str) -> None:
        """Every decision from now on is a stop."""
        self.stopping = self.stopping or reason

    def lost(self, members: Iterable[int]) -> None:
        """Their trial died and will come again from its last checkpoint."""
        self._roster.lost(members)

    def drop(self, members: Iterable[int]) -> None:
        """Their trial is gone for good."""
        self._roster.drop(members)

    def durable(self, member: int, segment: int) -> None:
        """A checkpoint of the member after ``segment`` is safe on disk (or about to be)."""
        self._roster[member].mark_durable(segment + 1)

    def get_state(self, *, sparse: bool = False) -> dict[str, Any]:
        """Everything that a restarted driver needs, as plain data and records; ``sparse``: where members only ever go
        back to what was called ``durable``."""
        return {
            **self._observer.get_state(sparse=sparse),
            "stopping": None,  # an interrupted run goes on
            "policy": self.policy.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._observer.set_state(state)
        self.policy.set_state(state["policy"])

    # -- deciding --------------------------------------------------------------------------------------------------

    def _forgotten(self, report: Report) -> Decision:
        """The decision behind a report where it is not known any more (an older state had to be taken up): what was in
        force, made by nobody."""
        found = positions_of(self.space, report, factor=self._factor(report.segment))
        return self._decision(report.member, report.segment, found or self._roster[report.member].state.positions)

    def _steered(self, state: MemberState, observation: np.ndarray, choice: Choice, around: Surroundings) -> Decision:
        move = self.actions.apply(
            choice.action,
            first=False,
            state=state,
            population=around.crowd,
            incumbent_member=around.holder,
        )
        if move.stop:
            self.drop([state.member])
        elif move.source.kind == "keep" and self.floor is not None and self.floor.acts(state, around.population):
            return self._returned(state)
        return self._decision(
            state.member,
            state.segment,
            move.positions,
            source=move.source,
            stop=move.stop,
            **chosen(choice, observation),
        )

    def _returned(self, state: MemberState) -> Decision:
        """The decision of the floor, in place of a policy that would train on with collapsed weights.

        The policy must not learn from an action that was not carried out, so its episode ends before it (truncated: the
        critic says what would have followed) and another one begins with its next choice.
        """
        logger.info(
            "member %d has fallen by %.2g since segment %s: goes back there",
            state.member,
            fallen(state),
            state.best_segment,
        )
        self._roster.break_off(state.member)
        self._roster[state.member].push(replace(state, returned_segment=state.segment))
        back = Source(kind="checkpoint", member=state.member, name=FLOOR)
        return self._decision(state.member, state.segment, state.best_positions, source=back)

    def _unchanged(self, report: Report, state: MemberState) -> Decision:
        """The decision about a member that cannot be changed. Nothing of it was the policy's, whose episode, if it has
        decided about the member's start, ends before it (truncated)."""
        self._roster.break_off(report.member)
        decision = self._decision(report.member, state.segment, state.positions)
        return replace(decision, hyperparameters={**decision.hyperparameters, **report.hyperparameters})

    def _unsteered(self, report: Report, state: MemberState, why: str | None) -> Decision:
        """A decision that no policy is asked for: the end, or a restart after a failure."""
        ledger = self._roster[report.member]
        if report.error:
            self.trouble = report.error.rstrip().rpartition("\n")[2]
            logger.warning("member %d, segment %d:\n%s", report.member, report.segment, report.error.rstrip())
        failed_for_good = why == "failed" and state.restarts > self.failures.max_restarts
        at_the_end = bool(self.stopping) or over(report, segments=self.end)
        if why == "failed" and not failed_for_good and not at_the_end:
            ledger.episode += 1
            own_best = Source(kind="checkpoint", member=report.member, name="own_best")
            logger.warning(
                "member %d %s in segment %d: restarts from its own best", report.member, report.status, report.segment
            )
            positions = self._best_positions(report.member)
            if report.status == "diverged":
                positions = calmed(self.space, positions, state.positions)
            return self._decision(report.member, state.segment, positions, source=own_best)
        if failed_for_good:
            logger.warning("member %d %s in segment %d: given up", report.member, report.status, report.segment)
            ledger.push(replace(state, alive=False))
        return self._decision(report.member, state.segment, state.positions, stop=True)

    def _best_positions(self, member: int) -> tuple[float, ...]:
        """The values that a failed member restarts with: those of its best segment, or its start where it has none."""
        ledger = self._roster[member]
        return ledger.state.best_positions or ledger.start.positions

    def _first(self, situation: Situation, choice: Choice) -> Decision:
        member = situation.member
        state = self._observer.unstarted(member)
        move = self.actions.apply(choice.action, first=True, state=state, population=[state], incumbent_member=None)
        return self._decision(member, 0, move.positions, **chosen(choice, situation.observation))

    def _join(self, decision: Decision) -> None:
        self._roster.join(decision.member, Ledger.begin(decision, self._observer.newcomer))

    def _decision(self, member: int, segment: int, positions: Sequence[float], **others: Any) -> Decision:
        factor, script = self._factor(segment), self.policy.prescribed
        return draft(self.space, member, segment, positions, factor=factor, script=script, **others)

    def _factor(self, segment: int) -> float:
        return schedule_factor(self.schedule, segment, self.segments)

    def _decision_seed(self, member: int, segment: int) -> int:
        episode = self._roster[member].episode if member in self._roster else 0
        return int(np.random.SeedSequence([self.seed, member, segment, episode]).generate_state(1)[0])
