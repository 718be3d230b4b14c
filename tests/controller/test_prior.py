"""What a network does before it has learned: a single model's population is sorted, an ensemble's is moved as one."""

from __future__ import annotations

import numpy as np
import pytest
from ray import tune

from raytune_rl.controller.prior import (
    RESCUE_FROM,
    RESCUE_UNTIL,
    TOGETHER,
    TOGETHER_UNTIL,
    level_places,
    move_prior,
    source_prior,
    start_prior,
)
from raytune_rl.hyperparameters import LEVELS, STAY, SearchSpace, roles
from raytune_rl.hyperparameters.kinds import LEARNING_RATE_FACTORS
from raytune_rl.mdp.action import SOURCES
from raytune_rl.mdp.features import MEMBER_FEATURES, SLOT_FEATURES
from raytune_rl.mdp.observation import ObservationSpec

SPACE = SearchSpace.from_specs(
    {
        "lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)),
        "decay": roles.weight_decay(tune.loguniform(1e-6, 0.1)),
        "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
    }
)
DECADES = 5.0
STEPS = np.log10(LEARNING_RATE_FACTORS)


def seen(
    *, lead: float = 0.0, sign: float = 1.0, members: int = 8, space: SearchSpace = SPACE, **features: float
) -> tuple[np.ndarray, np.ndarray]:
    """One observation of the space, as the blocks about the member and about the hyperparameters."""
    spec = ObservationSpec(space, optimiser=sign)
    found = np.zeros((1, spec.size), dtype=np.float32)
    for slot, hyperparameter in enumerate(space):
        fixed = spec._fixed[slot]
        told = {"present": 1.0, "live": fixed.flags[0], "log": fixed.flags[1], "ordered": fixed.flags[2]}
        told |= {"lower": fixed.lower, "upper": fixed.upper, f"role/{hyperparameter.role}": 1.0, "lead": lead}
        for name, value in told.items():
            found[0, spec.index(f"hp/{hyperparameter.name}/{name}")] = value
    for name, value in {"optimiser": sign, "population": np.log(members) / 2, **features}.items():
        found[0, spec.index(name)] = value
    member = len(MEMBER_FEATURES)
    return found[:, :member], found[:, member:].reshape(1, len(space), len(SLOT_FEATURES))


def shares(logits: np.ndarray) -> np.ndarray:
    likely = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return likely / likely.sum(axis=-1, keepdims=True)


def moves(**features: float) -> np.ndarray:
    """The shares of every move, (hyperparameters, LEVELS)."""
    member, tokens = seen(**features)
    return shares(move_prior(member, tokens, np.zeros((1, len(SPACE), LEVELS)), np))[0]


def sources(**features: float) -> dict[str, float]:
    found = shares(source_prior(seen(**features)[0], np.zeros((1, len(SOURCES))), np))[0]
    return dict(zip(SOURCES, found.tolist(), strict=True))


def starts(**features: float) -> tuple[np.ndarray, np.ndarray]:
    """The shares of every starting level, and their magnitudes, (hyperparameters, LEVELS)."""
    member, tokens = seen(first=1.0, **features)
    return shares(start_prior(member, tokens, np))[0], level_places(tokens, np)[0][0]


@pytest.mark.parametrize("lead", [-0.2, -0.05, 0.0, 0.03, 0.1, 0.18])
def test_an_ensembles_learning_rates_move_half_of_the_way_to_the_best_ones(lead: float) -> None:
    found = moves(ensemble=1.0, copy_allowed=1.0, progress=0.3, lead=lead)
    way = TOGETHER * lead * DECADES
    assert found[0] @ STEPS == pytest.approx(way, abs=0.05)
    assert found[0] @ (STEPS - way) ** 2 < 0.2**2, "and not far to either side of it"
    assert found[1:, STAY].min() > 0.9, "nothing else moves"


@pytest.mark.parametrize(
    "elsewhere",
    [{"ensemble": 0.0}, {"copy_allowed": 0.0}, {"progress": TOGETHER_UNTIL + 0.01}, {"members": 3}],
    ids=str,
)
def test_they_do_so_together_or_not_at_all(elsewhere: dict[str, float]) -> None:
    found = moves(**{"ensemble": 1.0, "copy_allowed": 1.0, "progress": 0.3, "lead": 0.25} | elsewhere)
    assert found[0, STAY] > 0.9


def test_a_learning_rate_on_a_linear_scale_stays() -> None:
    space = SearchSpace.from_specs({"lr": roles.learning_rate(tune.uniform(0.0, 1.0))})
    member, tokens = seen(space=space, lead=0.25, ensemble=1.0, copy_allowed=1.0, progress=0.3)
    assert shares(move_prior(member, tokens, np.zeros((1, 1, LEVELS)), np))[0, 0, STAY] > 0.9


@pytest.mark.parametrize("segments", [8, 12, 16, 20, 50])
def test_an_ensembles_worst_member_is_rescued_in_a_run_of_any_length(segments: int) -> None:
    times = [
        segment
        for segment in range(2, segments, 2)  # the shipped policy copies at every second one
        if sources(ensemble=1.0, copy_allowed=1.0, rank=1.0, progress=segment / segments)["keep"] < 0.1
    ]
    assert times and times[-1] < 0.3 * segments


def test_who_has_taken_weights_is_not_rescued_again() -> None:
    need = {"ensemble": 1.0, "copy_allowed": 1.0, "rank": 1.0, "progress": 0.2, "elapsed": 0.8, "copy_age": 0.8}
    assert sources(**need)["keep"] < 0.1
    others = [{"progress": RESCUE_UNTIL}, {"rank": 0.7}, {"copy_allowed": 0.0}, {"progress": RESCUE_FROM - 0.05}]
    for other in [*others, {"copy_age": 0.35}, {"members": 3}]:
        assert sources(**need | other)["keep"] > 0.98


def test_a_single_models_worst_members_are_replaced_at_any_time_and_move() -> None:
    for progress in (0.1, 0.5, 0.9):
        behind = {"copy_allowed": 1.0, "rank": 1.0, "progress": progress}
        assert sources(**behind)["keep"] < 0.25
        assert moves(**behind)[0, STAY] < 0.4
        assert sources(**behind | {"rank": 0.7})["keep"] > 0.9


@pytest.mark.parametrize(("sign", "default"), [(1.0, -3.0), (-1.0, -1.0)], ids=["adam", "sgd"])
def test_an_ensemble_starts_about_the_usual_default(sign: float, default: float) -> None:
    likely, magnitude = starts(ensemble=1.0, sign=sign)
    mean = likely[0] @ magnitude[0] - 2.0  # as log10
    assert abs(mean - default) < 0.3 and np.sqrt(likely[0] @ (magnitude[0] - 2.0 - mean) ** 2) < 0.7
    assert abs(likely[1] @ magnitude[1] - 2.0 + 4.0) < 0.3, "a little weight decay"
    assert likely[2, 0] > 0.6, "no dropout, mostly"


def test_a_single_models_weight_decay_starts_anywhere() -> None:
    likely, _ = starts(ensemble=0.0)
    np.testing.assert_allclose(likely[1], 1 / LEVELS)
    assert 0.3 < likely[2, 0] < 0.6, "dropout is off more often than anything else"
