"""A space turns values into positions and back for all its hyperparameters, and spreads a population over them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import tune

from raytune_rl.hyperparameters import SearchSpace, roles

SPACE = SearchSpace.from_specs(
    {
        "lr": roles.learning_rate(tune.loguniform(1e-4, 1.0)),
        "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
        "layers": tune.randint(1, 5),
        "activation": ["relu", "tanh"],
    }
)
VALUES = {"lr": 0.01, "dropout": 0.3, "layers": 4, "activation": "tanh"}
positions = st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4)


def test_values_go_to_positions_and_back() -> None:
    assert SPACE.encode(VALUES) == pytest.approx((0.5, 0.5, 1.0, 1.0))
    assert SPACE.decode(SPACE.encode(VALUES)) == pytest.approx(VALUES)


def test_it_is_a_collection_of_named_hyperparameters() -> None:
    assert SPACE.names == ("lr", "dropout", "layers", "activation")
    assert len(SPACE) == 4
    assert SPACE["layers"].decode(0.0) == 1
    assert "lr" in SPACE and "momentum" not in SPACE
    assert [h.name for h in SPACE] == list(SPACE.names)
    with pytest.raises(KeyError):
        SPACE["momentum"]


@given(positions, st.floats(0, 1e6))
def test_no_position_and_no_schedule_leads_out_of_the_bounds(where: tuple[float, ...], factor: float) -> None:
    values = SPACE.decode(where, factor=factor)
    assert 1e-4 <= values["lr"] <= 1.0
    assert 0.0 <= values["dropout"] <= 0.6
    assert values["layers"] in (1, 2, 3, 4)
    assert values["activation"] in ("relu", "tanh")


def test_a_schedule_scales_learning_rates_only() -> None:
    scaled = SPACE.decode(SPACE.encode(VALUES), factor=0.1)
    assert scaled == pytest.approx({**VALUES, "lr": 0.001})
    assert SPACE.decode(SPACE.encode(VALUES), factor=0.0)["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("factor", [math.nan, math.inf, -0.1])
def test_a_factor_without_meaning_is_refused(factor) -> None:
    with pytest.raises(ValueError, match="factor"):
        SPACE.decode((0.5,) * 4, factor=factor)


@given(st.integers(0, 2**32 - 1))
def test_samples_follow_the_seed_and_stay_inside(seed: int) -> None:
    sample = SPACE.sample(np.random.default_rng(seed))
    assert sample == SPACE.sample(np.random.default_rng(seed))
    assert all(type(x) is float and 0.0 <= x <= 1.0 for x in sample)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_spread_has_one_member_in_each_part_of_every_range(n: int, seed: int) -> None:
    spread = SPACE.spread(n, np.random.default_rng(seed))
    assert spread == SPACE.spread(n, np.random.default_rng(seed))
    assert len(spread) == n
    parts = sorted(int(member[0] * n) for member in spread)
    assert parts == list(range(n))


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_a_third_of_a_spread_starts_without_regularisation(n: int, seed: int) -> None:
    dropout = [SPACE.decode(member)["dropout"] for member in SPACE.spread(n, np.random.default_rng(seed))]
    assert dropout.count(0.0) >= round(n / 3)
    assert max(dropout) > 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchSpace.from_specs({}), "at least one hyperparameter"),
        (lambda: SearchSpace(SPACE.hyperparameters[:1] * 2), "names of the hyperparameters must differ: lr, lr"),
        (lambda: SearchSpace.from_specs({"lr": roles.learning_rate(tune.loguniform(1, 0.1))}), "'lr'.*smaller"),
        (lambda: SPACE.encode({"lr": 0.1}), "'dropout' has no value"),
        (lambda: SPACE.encode({**VALUES, "lr": math.nan}), "'lr': nan must be a number"),
        (lambda: SPACE.decode((0.5,)), "1 positions were given for the 4 hyperparameters"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_other_values_beside_the_space_are_ignored() -> None:
    assert SPACE.encode({**VALUES, "epochs": 3}) == SPACE.encode(VALUES)
