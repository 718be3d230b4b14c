"""Plays whole experiments: step by step, controllers decide and a cohort trains.

Several populations of one task train in one cohort. Each has its own controller, of the class that also drives real
trials, and sees nothing of the other populations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from raytune_rl.controller.assembly import assemble
from raytune_rl.controller.controller import Controller
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.policy import Choice, Policy, Remote
from raytune_rl.controller.rollback import DEFAULT_FLOOR, Floor
from raytune_rl.controller.step_inputs import StepInputs
from raytune_rl.controller.tokens import TokenPolicy
from raytune_rl.mdp.reward import Reward, improvement, mixed
from raytune_rl.mdp.score import Score
from raytune_rl.records import Decision, Report, Step
from raytune_rl.worlds.cohort import Cohort, Measured
from raytune_rl.worlds.samples import Samples
from raytune_rl.worlds.task import WorldTask

METRIC = "validation_loss"
LOSS = Score(metric="loss", mode="min")
NEVER = FailurePolicy(max_restarts=10**9)
"""A diverged member continues from its best weights, however often: a cohort cannot lose members."""
COPY_EVERY = 4


def make_controller(
    task: WorldTask,
    policy: Policy,
    *,
    members: int,
    segments: int,
    seed: int,
    copy_every: int | tuple[int, ...] | None = None,
    slots: int | None = None,
    ensemble: bool = False,
    reward: Reward | None = None,
    floor: Floor | None = DEFAULT_FLOOR,
) -> Controller:
    """A controller for one population of ``task``; other arguments mean what they mean in ``Experiment``.

    Args:
        copy_every: ``None`` = what the policy requires, or else 4.
        ensemble: whether the ensemble is the objective.
    """
    if isinstance(policy, Remote):
        policy.remote = False  # it learns in this process: a world has no cluster
    return assemble(
        space=task.space,
        policy=policy,
        reward=reward or (mixed() if ensemble else improvement()),
        metric=METRIC,
        mode="min",
        population=members,
        segments=segments,
        synchronous=True,
        seed=seed,
        copy_every=copy_every or COPY_EVERY,
        copy_every_is_fixed=bool(copy_every),
        optimiser=task.optimiser_sign,
        slots=slots,
        agent_starts=True,
        failures=NEVER,
        floor=floor,
        evaluation_targets=task.sample().evaluation_targets if ensemble else None,
    )


@dataclass(kw_only=True)
class Played:
    """The course of one population. Arrays have the shape (segments, members) unless stated otherwise; what was not
    measured is NaN.

    Attributes:
        start: the opening decision of each member.
        steps: the controller's steps, one per segment.
        validation: losses after each segment.
        test: likewise, only if the rollout is ``tested``.
        parent: the member whose weights each segment started from.
        parent_segment: the segment that those weights had been trained in last (-1: they were initial weights).
        contribution: on the test split, see ``mdp.ensemble_stats``; only if the rollout is ``tested`` and the objective
            is the ensemble.
        ensemble: shape (segments,): the test score of the greedy ensemble that validation chose; when ``contribution``
            is measured.
    """

    start: list[Decision]
    steps: list[Step] = field(default_factory=list)
    validation: np.ndarray
    test: np.ndarray
    parent: np.ndarray
    parent_segment: np.ndarray
    contribution: np.ndarray
    ensemble: np.ndarray


class Rollout:
    """G populations of ``members`` each, in one cohort.

    Args:
        cohort: of G * members members; the members of a population follow each other.
        controllers: one per population.
        segments: length of a member's training.
        tested: also measure the loss on the test split after every segment. No controller sees it.
    """

    def __init__(
        self,
        cohort: Cohort,
        controllers: Sequence[Controller],
        *,
        segments: int,
        tested: bool = False,
    ) -> None:
        self.cohort, self.controllers, self.tested = cohort, controllers, tested
        self.members, rest = divmod(len(cohort), len(controllers))
        assert rest == 0
        self.played = []
        for controller in controllers:
            start = controller.begin_all(range(self.members))
            empty = [np.full((segments, self.members), np.nan) for _ in range(3)]
            origins = [np.zeros((segments, self.members), dtype=np.int64) for _ in range(2)]
            self.played.append(
                Played(
                    start=start,
                    validation=empty[0],
                    test=empty[1],
                    parent=origins[0],
                    parent_segment=origins[1],
                    contribution=empty[2],
                    ensemble=np.full(segments, np.nan),
                )
            )
        self._open = [list(played.start) for played in self.played]
        self._best_segment = np.full((len(controllers), self.members), -1)
        self.segments = segments
        self._samples = Samples.of(cohort.task) if controllers[0].evaluation_targets is not None else None

    def play(self, each: Callable[[int], None] = lambda segment: None) -> list[Played]:
        """Play all segments. ``each`` is called after every one of them, with its number."""
        for segment in range(self.segments):
            reports = self.train(segment)
            inputs = [controller.take(group) for controller, group in zip(self.controllers, reports, strict=True)]
            for group, (controller, choices) in enumerate(zip(self.controllers, self._choices(inputs), strict=True)):
                self.follow(group, controller.decide(inputs[group], choices))
                controller.learn(wait=True)
            each(segment)
        return self.played

    def train(self, segment: int) -> list[list[Report]]:
        """Carry out the open decisions and train all members for one segment.

        Returns the reports of each population, in order of its members. They are for its controller, whose next step
        goes to ``follow``.
        """
        self._prepare(segment)
        measured = self.cohort.train(None if self._samples is None else self._samples.validation)
        if self.tested:
            self._test(segment, measured)
        return self._reports(segment, measured)

    def follow(self, group: int, step: Step) -> None:
        """Accept a step of the controller of population ``group``: its decisions open the next segment."""
        self.played[group].steps.append(step)
        self._open[group] = list(step.decisions)

    def _choices(self, inputs: Sequence[StepInputs]) -> Sequence[Sequence[Choice] | None]:
        """The choices for each population, made by one policy if all policies act alike: a pass through one network
        costs little more for all populations than for one. Otherwise ``None``, and each controller asks its own
        policy."""
        first = self.controllers[0].policy
        if not isinstance(first, TokenPolicy) or not all(
            first.acts_like(controller.policy) for controller in self.controllers
        ):
            return [None] * len(inputs)
        situations = [controller.situations(part) for controller, part in zip(self.controllers, inputs, strict=True)]
        choices = iter(first.act([situation for part in situations for situation in part]))
        return [list(itertools.islice(choices, len(part))) for part in situations]

    def _prepare(self, segment: int) -> None:
        """Carry out the open decisions: copy weights, set hyperparameters, and note whose weights each member got."""
        targets, sources, from_best = [], [], []
        for group, opened in enumerate(self._open):
            played, base = self.played[group], group * self.members
            for member, decision in enumerate(opened):
                played.parent[segment, member], played.parent_segment[segment, member] = member, segment - 1
                source = decision.source
                if source.kind == "keep":
                    continue
                parent = member if source.member is None else source.member
                best = source.kind == "checkpoint"
                targets.append(base + member)
                sources.append(base + parent)
                from_best.append(best)
                played.parent[segment, member] = parent
                if best:
                    played.parent_segment[segment, member] = self._best_segment[group, parent]
        self.cohort.take(targets, sources, from_best)
        self.cohort.apply([decision.hyperparameters for opened in self._open for decision in opened])

    def _test(self, segment: int, measured: Measured) -> None:
        """Evaluate the members and their ensembles on the test split, which no controller sees."""
        split = self.cohort.task.splits.test
        assert split is not None
        outputs = self.cohort.outputs(split)
        losses = self.cohort.losses(outputs, split)
        predictions = None if self._samples is None else self._samples.test.predictions(outputs)
        for group, played in enumerate(self.played):
            of_group = slice(group * self.members, (group + 1) * self.members)
            played.test[segment] = losses[of_group]
            if self._samples is not None and predictions is not None and measured.predictions is not None:
                played.contribution[segment], played.ensemble[segment] = self._samples.judge(
                    measured.predictions[of_group], predictions[of_group]
                )

    def _reports(self, segment: int, measured: Measured) -> list[list[Report]]:
        """The reports of each population. Also notes the losses and in which segment each member was best."""
        losses = measured.validation_loss.tolist()
        signals = {name: values.tolist() for name, values in measured.signals.items()}
        reports_of_groups = []
        for group, played in enumerate(self.played):
            base = group * self.members
            reports = []
            for member, decision in enumerate(self._open[group]):
                loss = losses[base + member]
                member_signals = {name: values[base + member] for name, values in signals.items()}
                copied = decision.source.kind != "keep"
                reports.append(
                    Report(
                        member=member,
                        segment=segment,
                        steps=(segment + 1) * self.cohort.task.segment_length,
                        metrics={METRIC: loss, "train_loss": member_signals["train_loss"]},
                        signals=member_signals,
                        hyperparameters=decision.hyperparameters,
                        decision=segment,
                        copied_from=int(played.parent[segment, member]) if copied else None,
                        copied_segment=int(played.parent_segment[segment, member]) if copied else None,
                        status="ok" if np.isfinite(loss) else "diverged",
                        predictions=None if measured.predictions is None else measured.predictions[base + member],
                    )
                )
                earlier = played.validation[:segment, member]
                if np.isfinite(loss) and not (earlier <= loss).any():
                    self._best_segment[group, member] = segment
                played.validation[segment, member] = loss
            reports_of_groups.append(reports)
        return reports_of_groups
