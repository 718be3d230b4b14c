"""What the ensemble of a packed population is worth where no controller looks: on the test split.

Meta-training may pay by it, since the test splits of drawn tasks exist for that (``worlds/generator.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raytune_rl.combining.contribution import greedy_weights, leave_one_out, score
from raytune_rl.population.predictions import Sample
from raytune_rl.worlds.task import WorldTask


@dataclass(frozen=True, eq=False)
class Samples:
    """The examples of both splits that members are asked about."""

    validation: Sample
    test: Sample

    @classmethod
    def of(cls, task: WorldTask) -> Samples:
        assert task.splits.test is not None
        return cls(validation=task.sample(), test=Sample.of(task.loss, task.splits.test.targets))

    def judge(self, validation: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, float]:
        """Contributions (members,) and the score of the greedy ensemble on the test split, by validation's choice.

        Args:
            validation, test: predictions of a population, (members, rows, outputs). Members that predict NaN count
                nothing; where all do, the score is NaN.
        """
        found = np.zeros(len(test))
        sound = np.isfinite(validation).all(axis=(1, 2)) & np.isfinite(test).all(axis=(1, 2))
        if not sound.any():
            return found, float("nan")
        weights = greedy_weights(self.validation.evaluation_targets.evidence(validation[sound]))
        evidence = self.test.evaluation_targets.evidence(test[sound])
        found[sound] = leave_one_out(evidence)
        return found, float(score(evidence.loss(weights)))
