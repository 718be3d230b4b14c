"""What a member is to the ensemble of its population: plain numbers that observations and rewards read.

``combining/credit.py`` works them out from what the members predict for the same validation examples. All scores are on
the scale of ``mdp.score``, higher is better: -ln(loss + 0.02) of the loss on those examples by which ensembles of this
kind of task are judged (``combining.losses``), whatever bends it in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One member in its population, as of the member's last sound report; before any, all is 0.

    Attributes:
        contribution: score of the mean prediction of all - of all others: what the uniform ensemble has of the member
            (a difference reward, Wolpert & Tumer 2001). Alone, a member contributes its own score.
        weight: its share of the greedy ensemble, in [0, 1].
        distance: mean over the other members of the root mean square distance between their predictions and its own
            (of probabilities; of a regression in the targets' standard deviations); 0 when alone.
        nearest: the smallest of these distances.
        spread: mean distance of all pairs of the population.
        greedy, uniform: score of the greedy and of the uniform ensemble.
        best: score of the best single member.
        disagreement, ambiguity: of all members (``combining.diversity``): the share of examples for which two of them
            decide differently, and their mean loss - the loss of their mean prediction.
        incumbent: the best score that any member has ever had by the experiment's metric.
        greedy_change, contribution_change, incumbent_change: since the standing before, at first from 0.
    """

    contribution: float = 0.0
    weight: float = 0.0
    distance: float = 0.0
    nearest: float = 0.0
    spread: float = 0.0
    greedy: float = 0.0
    uniform: float = 0.0
    best: float = 0.0
    disagreement: float = 0.0
    ambiguity: float = 0.0
    incumbent: float = 0.0
    greedy_change: float = 0.0
    contribution_change: float = 0.0
    incumbent_change: float = 0.0

    def after(self, before: Standing, *, incumbent: float) -> Standing:
        """The same standing, with the incumbent's score and what has changed since ``before``."""
        return replace(
            self,
            incumbent=incumbent,
            greedy_change=self.greedy - before.greedy,
            contribution_change=self.contribution - before.contribution,
            incumbent_change=incumbent - before.incumbent,
        )
