"""Plays whole experiments: controllers decide, a cohort trains, both step by step together.

Several populations of one task train in one cohort. Each has a controller of its own, the same class that drives real
trials, and sees nothing of the others.
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
"""A diverged member goes on from its best, however often: a cohort has no room for members that are gone."""
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
    """A controller for one population of ``task``; the arguments mean what they mean in ``Experiment``.

    ``copy_every``: ``None`` = what the policy requires, or 4. ``ensemble``: that is the objective. A policy that
    learns does so in this process: a world has no cluster.
    """
    if isinstance(policy, Remote):
        policy.remote = False
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
    """What came of one population, arrays of shape (segments, members).

    Attributes:
        steps: the controller's, a segment each.
        validation, test: losses after each segment; ``test`` only where it was asked for.
        contribution: on the test split, see ``mdp.ensemble_stats``; likewise, and where the objective is the ensemble.
        ensemble: shape (segments,): the score there of the greedy ensemble that validation chose.
        parent: the member whose weights each segment started from; ``parent_segment`` the segment that they had been
            trained in last (-1: the initial ones).
        start: shape (members,): the opening decisions.
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
        cohort: of G * members members.
        controllers: one per population.
        tested: measure the loss on the test split after every segment, too. Nobody who decides sees it.
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
        """All segments."""
        for segment in range(self.segments):
            reports = self.train(segment)
            inputs = [controller.take(group) for controller, group in zip(self.controllers, reports, strict=True)]
            for group, (controller, choices) in enumerate(zip(self.controllers, self._choices(inputs), strict=True)):
                self.follow(group, controller.decide(inputs[group], choices))
                controller.learn(wait=True)
            each(segment)
        return self.played

    def train(self, segment: int) -> list[list[Report]]:
        """Carry the open decisions out, train a segment of everybody, and say what came of it: a list per population,
        for its controller, whose answer goes to ``follow``."""
        self._prepare(segment)
        measured = self.cohort.train(None if self._samples is None else self._samples.validation)
        if self.tested:
            self._test(segment, measured)
        return self._reports(segment, measured)

    def follow(self, group: int, step: Step) -> None:
        """Take up a step of that population's controller: its decisions open the next segment."""
        self.played[group].steps.append(step)
        self._open[group] = list(step.decisions)

    def _choices(self, inputs: Sequence[StepInputs]) -> Sequence[Sequence[Choice] | None]:
        """What the policies choose, where all act alike: a pass through one network costs little more for all
        populations than for one. Otherwise nothing, and each controller asks its own."""
        first = self.controllers[0].policy
        if not isinstance(first, TokenPolicy) or not all(first.acts_like(one.policy) for one in self.controllers):
            return [None] * len(inputs)
        asked = [controller.situations(part) for controller, part in zip(self.controllers, inputs, strict=True)]
        choices = iter(first.act([situation for part in asked for situation in part]))
        return [list(itertools.islice(choices, len(part))) for part in asked]

    def _prepare(self, segment: int) -> None:
        """Carry the decisions out."""
        targets, sources, from_best = [], [], []
        for group, opened in enumerate(self._open):
            played, base = self.played[group], group * self.members
            for member, decision in enumerate(opened):
                played.parent[segment, member], played.parent_segment[segment, member] = member, segment - 1
                source = decision.source
                if source.kind == "keep":
                    continue
                giver = member if source.member is None else source.member
                best = source.kind == "checkpoint"
                targets.append(base + member)
                sources.append(base + giver)
                from_best.append(best)
                played.parent[segment, member] = giver
                if best:
                    played.parent_segment[segment, member] = self._best_segment[group, giver]
        self.cohort.take(targets, sources, from_best)
        self.cohort.apply([decision.hyperparameters for opened in self._open for decision in opened])

    def _test(self, segment: int, measured: Measured) -> None:
        """What the members and their ensembles are worth on the test split, which no controller sees."""
        split = self.cohort.task.splits.test
        assert split is not None
        outputs = self.cohort.outputs(split)
        losses = self.cohort.losses(outputs, split)
        predictions = None if self._samples is None else self._samples.test.predictions(outputs)
        for group, played in enumerate(self.played):
            mine = slice(group * self.members, (group + 1) * self.members)
            played.test[segment] = losses[mine]
            if self._samples is not None and predictions is not None and measured.predictions is not None:
                found = self._samples.judge(measured.predictions[mine], predictions[mine])
                played.contribution[segment], played.ensemble[segment] = found

    def _reports(self, segment: int, measured: Measured) -> list[list[Report]]:
        losses = measured.validation_loss.tolist()
        signals = {name: values.tolist() for name, values in measured.signals.items()}
        everybody = []
        for group, played in enumerate(self.played):
            base = group * self.members
            reports = []
            for member, decision in enumerate(self._open[group]):
                loss = losses[base + member]
                told = {name: values[base + member] for name, values in signals.items()}
                copied = decision.source.kind != "keep"
                reports.append(
                    Report(
                        member=member,
                        segment=segment,
                        steps=(segment + 1) * self.cohort.task.segment_length,
                        metrics={METRIC: loss, "train_loss": told["train_loss"]},
                        signals=told,
                        hyperparameters=decision.hyperparameters,
                        decision=segment,
                        copied_from=int(played.parent[segment, member]) if copied else None,
                        copied_segment=int(played.parent_segment[segment, member]) if copied else None,
                        status="ok" if np.isfinite(loss) else "diverged",
                        predictions=None if measured.predictions is None else measured.predictions[base + member],
                    )
                )
                best = played.validation[:segment, member]
                if np.isfinite(loss) and not (best <= loss).any():
                    self._best_segment[group, member] = segment
                played.validation[segment, member] = loss
            everybody.append(reports)
        return everybody
