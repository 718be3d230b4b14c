import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_squared_error, r2_score

from raytune_rl.combining.losses import KINDS, SMOOTHING, Evidence, combine, comparable, losses, scores
from tests.combining.predictions import made_up


def test_combine_is_the_weighted_mean_and_leaves_out_members_without_weight() -> None:
    predictions, _ = made_up("classification")
    np.testing.assert_allclose(combine(predictions), predictions.mean(axis=0))
    predictions[2] = np.nan
    mixed = combine(predictions, [0.25, 0.75, 0, 0, 0, 0])
    np.testing.assert_allclose(mixed, 0.25 * predictions[0] + 0.75 * predictions[1])


def test_the_loss_of_a_classification_is_the_log_loss_of_smoothed_probabilities() -> None:
    predictions, targets = made_up("classification")
    smoothed = (1 - SMOOTHING) * predictions + SMOOTHING / 4
    expected = [log_loss(targets, one, labels=range(4)) for one in smoothed]
    np.testing.assert_allclose(losses(predictions, targets, "classification"), expected)


def test_one_confident_mistake_costs_a_bounded_amount() -> None:
    predictions = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    assert losses(predictions, np.array([0, 0]), "classification")[0] < -np.log(SMOOTHING / 2)


def test_padding_does_not_count() -> None:
    predictions, targets = made_up("generation")
    padded = np.concatenate([predictions, predictions[:, ::-1]], axis=1)
    with_padding = losses(padded, np.concatenate([targets, np.full_like(targets, -100)]), "generation")
    np.testing.assert_allclose(with_padding, losses(predictions, targets, "generation"))


def test_the_loss_of_a_regression_is_the_mean_squared_error() -> None:
    predictions, targets = made_up("regression")
    expected = [mean_squared_error(targets, one) for one in predictions]
    np.testing.assert_allclose(losses(predictions, targets, "regression"), expected)
    single = losses(predictions[:, :, :1], targets[:, 0], "regression")  # targets without an axis for outputs
    np.testing.assert_allclose(single, [mean_squared_error(targets[:, :1], one[:, :1]) for one in predictions])


def test_the_loss_of_a_matching_is_the_cross_entropy_of_the_scores() -> None:
    import torch

    predictions, targets = made_up("matching")
    expected = [torch.nn.functional.cross_entropy(torch.tensor(p), torch.tensor(targets)).item() for p in predictions]
    np.testing.assert_allclose(losses(predictions, targets, "matching"), expected)


def test_scores_are_accuracy_and_the_coefficient_of_determination() -> None:
    predictions, targets = made_up("classification")
    assert scores(predictions, targets, "classification")[0] == np.mean(predictions[0].argmax(axis=1) == targets)
    predictions, targets = made_up("regression", outputs=1)
    np.testing.assert_allclose(
        scores(predictions, targets, "regression"), [r2_score(targets, one) for one in predictions]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_is_averaged_like_predictions(kind) -> None:
    predictions, targets = made_up(kind)
    weights = np.random.default_rng(1).dirichlet(np.ones(len(predictions)))
    direct = losses(combine(predictions, weights)[None], targets, kind)[0]
    assert Evidence.of(predictions, targets, kind).loss(weights) == pytest.approx(direct)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slope_is_the_gradient_of_the_loss(kind) -> None:
    predictions, targets = made_up(kind)
    evidence = Evidence.of(predictions, targets, kind)
    weights = np.random.default_rng(1).dirichlet(np.ones(len(evidence)))
    steps = 1e-6 * np.eye(len(evidence))
    numeric = [(evidence.loss(weights + step) - evidence.loss(weights - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(evidence.slope(weights), numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_predicts_no_number_is_infinitely_bad(kind) -> None:
    predictions, targets = made_up(kind)
    predictions[1, 3] = np.nan
    found = losses(predictions, targets, kind)
    assert np.isinf(found[1]) and np.isfinite(np.delete(found, 1)).all()


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    predictions, targets = made_up("classification")
    with pytest.raises(ValueError, match="must be \\(members, rows, outputs\\)"):
        losses(predictions[0], targets, "classification")
    with pytest.raises(ValueError, match=r"0\.\.3"):
        losses(predictions, targets + 1, "classification")
    with pytest.raises(ValueError, match="outputs"):
        losses(predictions, np.zeros((120, 3)), "regression")
    with pytest.raises(ValueError, match="kind is 'ranking'"):
        losses(predictions, targets, "ranking")


def test_what_cannot_be_told_is_worse_than_any_number() -> None:
    assert comparable(np.array([np.nan, np.inf, 2.0, -1.0])).tolist() == [np.inf, np.inf, 2.0, -1.0]
