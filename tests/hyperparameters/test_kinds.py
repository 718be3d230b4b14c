"""Values never leave their bounds, positions go there and back, and moves do what the table says."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raytune_rl.hyperparameters import LEVELS, STAY, Choice, Float, Hyperparameter, Integer
from raytune_rl.hyperparameters.kinds import LEARNING_RATE_FACTORS, LINEAR_SHARES, LOG_FACTORS

anywhere = st.floats(allow_nan=True, allow_infinity=True)
inside = st.floats(0.0, 1.0)
moves = st.integers(0, LEVELS - 1)
roles = st.sampled_from(["none", "learning_rate", "weight_decay"])


@st.composite
def floats(draw: st.DrawFn) -> Float:
    log = draw(st.booleans())
    lower = draw(st.floats(1e-12, 1e6) if log else st.floats(0, 1e9))
    upper = draw(st.floats(lower, 1e12))
    assume(upper > lower * (1 + 1e-9) and upper - lower > 1e-12)
    step = draw(st.none() | st.floats((upper - lower) / 1000, upper - lower))
    return Float(name="x", role=draw(roles), lower=lower, upper=upper, log=log, step=step)


@st.composite
def integers(draw: st.DrawFn) -> Integer:
    log = draw(st.booleans())
    lower = draw(st.integers(1 if log else 0, 10**6))
    upper = lower + draw(st.integers(1, 10**6))
    step = draw(st.integers(1, min(50, upper - lower)))
    return Integer(name="n", role=draw(roles), lower=lower, upper=upper, log=log, step=step)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    options = draw(
        st.lists(st.integers(-99, 99), min_size=1, max_size=9, unique=True)
        | st.lists(st.sampled_from("abcdefghijk"), min_size=1, max_size=9, unique=True)
        | st.permutations([True, False])
    )
    return Choice(name="c", options=tuple(options))


kinds: st.SearchStrategy[Hyperparameter] = st.one_of(floats(), integers(), choices())


def allowed(kind: Hyperparameter, value: object) -> bool:
    """Whether ``value`` is one that ``kind`` may ever give to a candidate."""
    if isinstance(kind, Choice):
        return any(value is option or (type(value) is type(option) and value == option) for option in kind.options)
    assert isinstance(kind, Float | Integer)
    if type(value) is not (int if isinstance(kind, Integer) else float) or not kind.lower <= value <= kind.upper:
        return False
    if kind.step is None:
        return True
    steps = (value - kind.lower) / kind.step
    # Rounding to twelve digits of the value may be seen against a much smaller step; a bound may cut the last step.
    slack = 1e-6 + abs(value) * 1e-11 / kind.step
    return abs(steps - round(steps)) <= slack


@given(kinds, anywhere)
def test_any_position_decodes_to_an_allowed_value(kind: Hyperparameter, position: float) -> None:
    assert allowed(kind, kind.decode(position))


@given(kinds, anywhere, st.floats(0, 1e9))
def test_a_factor_cannot_push_a_value_out_of_its_bounds(kind: Hyperparameter, position: float, factor: float) -> None:
    assert allowed(kind, kind.decode(position, factor))


@given(kinds, inside)
def test_a_decoded_value_encodes_to_a_position_that_decodes_to_it_again(kind: Hyperparameter, position: float) -> None:
    value = kind.decode(position)
    again = kind.decode(kind.encode(value))
    if isinstance(value, float):
        assert again == pytest.approx(value, rel=1e-9, abs=1e-12)
    else:
        assert again == value
        assert type(again) is type(value)


@given(kinds, anywhere, moves)
def test_a_move_from_anywhere_stays_in_the_range(kind: Hyperparameter, position: float, index: int) -> None:
    assert 0.0 <= kind.move(position, index) <= 1.0


@given(kinds, inside)
def test_staying_changes_nothing_at_all(kind: Hyperparameter, position: float) -> None:
    assert kind.move(position, STAY) == position


@given(st.one_of(floats(), integers()), inside, moves)
def test_numbers_move_in_the_direction_of_the_index(kind: Hyperparameter, position: float, index: int) -> None:
    before, after = kind.decode(position), kind.decode(kind.move(position, index))
    assert (after >= before) if index > STAY else (after <= before)


@given(st.one_of(floats(), integers()), inside, moves.filter(lambda index: index != STAY))
def test_on_a_grid_a_move_changes_the_value_unless_it_is_at_its_end(
    kind: Float | Integer, position: float, index: int
) -> None:
    assume(kind.step is not None)
    before, after = kind.decode(position), kind.decode(kind.move(position, index))
    ends = (kind.decode(0.0), kind.decode(1.0))
    assert after != before or before == ends[index > STAY]


@pytest.mark.parametrize(
    ("role", "factors"),
    [("learning_rate", LEARNING_RATE_FACTORS), ("weight_decay", LOG_FACTORS), ("none", LOG_FACTORS)],
)
def test_log_moves_multiply_by_the_factors_of_the_role(role, factors) -> None:
    kind = Float(name="x", role=role, lower=1e-4, upper=1.0, log=True)
    start = kind.encode(0.01)
    assert [kind.decode(kind.move(start, i)) / 0.01 for i in range(LEVELS)] == pytest.approx(factors)


def test_linear_moves_add_shares_of_the_range() -> None:
    kind = Float(name="x", lower=10.0, upper=20.0)
    assert [kind.decode(kind.move(0.5, i)) for i in range(LEVELS)] == pytest.approx(
        [15 + 10 * s for s in LINEAR_SHARES]
    )


def test_each_integer_owns_an_equal_part_of_a_linear_range() -> None:
    kind = Integer(name="n", lower=2, upper=5)
    assert [kind.decode((i + 0.5) / 8) for i in range(8)] == [2, 2, 3, 3, 4, 4, 5, 5]


def test_a_float_grid_gives_what_the_user_wrote() -> None:
    kind = Float(name="x", lower=0.0, upper=0.7, step=0.1)
    assert [kind.decode(i / 7) for i in range(8)] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@given(choices(), st.data(), moves)
def test_choices_step_along_an_order_and_around_a_circle(kind: Choice, data: st.DataObject, index: int) -> None:
    start = data.draw(st.integers(0, len(kind.options) - 1))
    target = start + index - STAY
    target = min(max(target, 0), len(kind.options) - 1) if kind.is_ordered else target % len(kind.options)
    moved = kind.decode(kind.move(kind.encode(kind.options[start]), index))
    assert moved == kind.options[target]


@pytest.mark.parametrize(
    ("options", "ordered"),
    [((1, 2, 4), True), ((0.1, 0.01), True), ((1, 4, 2), False), (("a", "b"), False), ((False, True), False)],
)
def test_only_rising_or_falling_numbers_are_ordered(options, ordered) -> None:
    assert Choice(name="c", options=options).is_ordered is ordered


def test_a_choice_tells_true_from_one() -> None:
    kind = Choice(name="c", options=(1, True))
    assert kind.decode(kind.encode(True)) is True
    assert kind.decode(kind.encode(1)) is not True


def test_levels_cover_a_range_evenly_and_regularisation_to_its_ends() -> None:
    plain = Float(name="x", lower=0.0, upper=1.0)
    assert [plain.level(i) for i in range(LEVELS)] == pytest.approx([(i + 0.5) / 7 for i in range(7)])
    dropout = Float(name="p", role="dropout", lower=0.0, upper=0.6)
    assert dropout.decode(dropout.level(0)) == 0.0
    assert dropout.decode(dropout.level(LEVELS - 1)) == 0.6


@given(kinds, st.integers().filter(lambda index: not 0 <= index < LEVELS))
def test_unknown_moves_and_levels_are_refused(kind: Hyperparameter, index: int) -> None:
    with pytest.raises(ValueError, match=r"the index -?\d+ must be in 0"):
        kind.move(0.5, index)
    with pytest.raises(ValueError, match=r"the index -?\d+ must be in 0"):
        kind.level(index)


@given(st.one_of(floats(), integers()), st.floats(allow_nan=False))
def test_numbers_outside_the_range_encode_to_its_nearer_end(kind: Float | Integer, value: float) -> None:
    position = kind.encode(value)
    assert 0.0 <= position <= 1.0
    if value <= kind.lower:
        assert position == 0.0
    if value >= kind.upper:
        assert position == 1.0


@pytest.mark.parametrize("value", [math.nan, "0.1", True])
def test_what_is_no_number_cannot_be_encoded(value) -> None:
    with pytest.raises(ValueError, match=r"'lr': .* must be a number"):
        Float(name="lr", lower=0.0, upper=1.0).encode(value)


def test_an_unknown_option_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match=r"'act': 'elu' must be one of \['relu', 'tanh'\]"):
        Choice(name="act", options=("relu", "tanh")).encode("elu")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(name="lr", lower=1.0, upper=0.1), "'lr': the lower bound 1 must be smaller than the upper"),
        (lambda: Float(name="lr", lower=0.5, upper=0.5), "must be smaller"),
        (lambda: Float(name="lr", lower=0.0, upper=1.0, log=True), "a log scale cannot include 0"),
        (lambda: Float(name="lr", lower=-1.0, upper=1.0, log=True), "a log scale cannot include -1"),
        (lambda: Float(name="lr", lower=math.nan, upper=1.0), "the bound nan must be a finite number"),
        (lambda: Float(name="lr", lower=0.0, upper=math.inf), "the bound inf must be a finite number"),
        (lambda: Float(name="lr", lower="0", upper=1.0), "the bound '0' must be a finite number"),
        (lambda: Float(name="lr", lower=-1.7e308, upper=1.7e308), "too wide"),
        (lambda: Float(name="lr", lower=0.0, upper=1.0, step=0.0), "the step 0 must be greater than 0"),
        (lambda: Float(name="lr", lower=0.0, upper=1.0, step=2.0), "the step 2 must"),
        (lambda: Float(name="p", role="dropout", lower=0.0, upper=1.5), "leaves"),
        (
            lambda: Float(name="a", role="augmentation", lower=-0.1, upper=0.5),
            r"leaves \[0, inf\], the bounds of the role augm",
        ),
        (lambda: Choice(name="a", role="augmentation", options=(-0.1, 0.5)), "the option -0.1 leaves"),
        (lambda: Float(name="p", role="droput", lower=0.0, upper=1.0), "the role 'droput' must be one of"),
        (lambda: Float(name="", lower=0.0, upper=1.0), "the name of a hyperparameter must be"),
        (lambda: Integer(name="n", lower=0.5, upper=2), "0.5 must be an integer"),
        (lambda: Choice(name="c", options=()), "'c': a choice needs at least one option"),
        (lambda: Choice(name="c", options=(1, 2, 1)), "an option occurs twice"),
        (lambda: Choice(name="c", options=(math.nan,)), "the option nan must be"),
        (lambda: Choice(name="c", options=((64, 64),)), r"the option \(64, 64\) must be"),
        (lambda: Choice(name="b", role="batch_size", options=(0, 32)), "the option 0 leaves"),
    ],
)
def test_ranges_without_meaning_are_refused_in_one_sentence(make, message) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)
