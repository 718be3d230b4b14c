"""Credit, on lineages small enough to be worked out by hand."""

from __future__ import annotations

import numpy as np

from raytune_rl.meta.credit import lineage_scores, start_margins, team_score

# Two members, three segments. Before the last one, member 1 takes the weights of member 0.
VALIDATION = np.array([[0.1, 0.0], [0.2, 0.1], [0.3, 0.5]])
TEST = VALIDATION * 10
PARENT = np.array([[0, 1], [0, 1], [0, 0]])
PARENT_SEGMENT = np.array([[-1, -1], [0, 0], [1, 1]])


def test_weights_are_worth_what_descends_from_them() -> None:
    found = lineage_scores(VALIDATION, TEST, PARENT, PARENT_SEGMENT)
    # Member 0's weights became the 0.5 that member 1 reached with them; member 1's own ended at 0.1.
    np.testing.assert_allclose(found, [[5.0, 1.0], [5.0, 1.0], [3.0, 5.0]])


def test_descendants_are_chosen_by_validation_and_paid_by_test() -> None:
    test = np.array([[9.0, 0.0], [0.0, 0.0], [7.0, 1.0]])
    found = lineage_scores(VALIDATION, test, PARENT, PARENT_SEGMENT)
    assert found[0, 0] == 1.0


def test_only_the_founder_of_the_winner_is_paid_for_its_start() -> None:
    np.testing.assert_allclose(start_margins(VALIDATION, TEST, PARENT, PARENT_SEGMENT), [4.0, 0.0])
    np.testing.assert_allclose(start_margins(VALIDATION[:, :1], TEST[:, :1], PARENT[:, :1], PARENT_SEGMENT[:, :1]), [3])


def test_the_team_is_paid_for_what_validation_would_take() -> None:
    assert team_score(VALIDATION, TEST) == 5.0
    assert team_score(VALIDATION, -TEST) == -5.0
