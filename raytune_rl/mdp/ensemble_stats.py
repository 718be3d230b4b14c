"""A member's part in the ensemble of its population: plain numbers that observations and rewards read.

``combining/contribution.py`` computes them from the members' predictions for the same validation examples. All scores
are on the scale of ``mdp.score``, higher is better: -ln(loss + 0.02), where the loss is the one by which ensembles of
this kind of task are judged (``combining.losses``), without the regularisation of the training loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleStats:
    """One member in its population, as of the member's last sound report; all 0 before the first.

    Attributes:
        contribution: score of the uniform ensemble of all members less that of the ensemble without this one (a
            difference reward, Wolpert & Tumer 2001). A member that is alone contributes its own score.
        weight: its weight in the greedy ensemble, in [0, 1].
        distance: mean over the other members of the root mean square distance between their predictions and its own
            (of probabilities; for a regression in standard deviations of the targets); 0 when alone.
        nearest: the smallest of these distances.
        spread: mean distance of all pairs of the population.
        greedy, uniform: score of the greedy and of the uniform ensemble.
        best: score of the best single member.
        disagreement, ambiguity: of all members (``combining.diversity``): the share of examples for which two of them
            decide differently, and their mean loss - the loss of their mean prediction.
        incumbent: the best score of any member so far, by the experiment's metric.
        greedy_change, contribution_change, incumbent_change: since the member's report before, at first from 0.
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

    def after(self, before: EnsembleStats, *, incumbent: float) -> EnsembleStats:
        """A copy with the incumbent's score and the changes since ``before``."""
        return replace(
            self,
            incumbent=incumbent,
            greedy_change=self.greedy - before.greedy,
            contribution_change=self.contribution - before.contribution,
            incumbent_change=incumbent - before.incumbent,
        )
