"""The score of a packed population's ensemble on the test split, which no controller sees.

Meta-training may use it as a reward: that is what the test splits of generated tasks are for (``data.TEST_ROWS``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raytune_rl.combining.contribution import greedy_weights, leave_one_out, score
from raytune_rl.population.predictions import Sample
from raytune_rl.worlds.task import WorldTask


@dataclass(frozen=True, eq=False)
class Samples:
    """The examples of the validation and test splits that members predict."""

    validation: Sample
    test: Sample

    @classmethod
    def of(cls, task: WorldTask) -> Samples:
        assert task.splits.test is not None
        return cls(validation=task.sample(), test=Sample.of(task.loss, task.splits.test.targets))

    def judge(self, validation: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, float]:
        """The members' contributions on the test split, (members,), and the test score of the greedy ensemble that is
        chosen on the validation split.

        Args:
            validation, test: predictions of a population for both samples, (members, rows, outputs). Members with
                predictions that are not finite are left out and contribute 0; if that is all of them, the score is NaN.
        """
        contributions = np.zeros(len(test))
        sound = np.isfinite(validation).all(axis=(1, 2)) & np.isfinite(test).all(axis=(1, 2))
        if not sound.any():
            return contributions, float("nan")
        weights = greedy_weights(self.validation.evaluation_targets.evidence(validation[sound]))
        evidence = self.test.evaluation_targets.evidence(test[sound])
        contributions[sound] = leave_one_out(evidence)
        return contributions, float(score(evidence.loss(weights)))
