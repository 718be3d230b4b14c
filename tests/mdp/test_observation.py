"""Observations are finite and clipped for any state, and say what the table says."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import tune

from raytune_rl.hyperparameters import SEEN_ROLES, SearchSpace, roles
from raytune_rl.mdp import SIGNALS, EnsembleStats, MemberState, ObservationSpec
from raytune_rl.mdp.features import MEMBER_FEATURES, SLOT_FEATURES
from raytune_rl.mdp.population_stats import PopulationStats
from tests.mdp.lives import LOSS, MIDDLE, SPACE, few, live, populations, wild

SPEC = ObservationSpec(SPACE)
POPULATION = [live([1.0, loss], member=i, positions=(i / 2,) * 4) for i, loss in enumerate((0.5, 0.2, 0.8))]


def see(state: MemberState, population=None, spec: ObservationSpec = SPEC, **situation) -> dict[str, float]:
    """An observation by feature name."""
    asked = {"segments": 20, "incumbent_score": LOSS.of(0.2), "copy_allowed": True, **situation}
    observation = spec.observe(state, POPULATION if population is None else population, **asked)
    return dict(zip(spec.features, observation.tolist(), strict=True))


@few
@given(populations(), st.none() | st.integers(-1, 30), st.none() | wild, st.booleans(), st.integers(4, 6))
def test_it_is_finite_clipped_and_of_one_size_for_any_history(population, segments, incumbent, copy, slots) -> None:
    spec = ObservationSpec(SPACE, slots=slots)
    for others in (population, population[1:], []):
        seen = spec.observe(population[0], others, segments=segments, incumbent_score=incumbent, copy_allowed=copy)
        assert seen.shape == (spec.size,) and seen.dtype == np.float32
        assert np.isfinite(seen).all()
        assert np.abs(seen).max() <= 4.0


@few
@given(st.lists(wild, min_size=12, max_size=12), populations())
def test_numbers_that_no_report_could_bring_do_not_break_it_either(numbers, population) -> None:
    names = ("value", "score", "first_score", "best_score", "credit", "train_loss", "gap", "gap_change", "seconds")
    broken = replace(
        population[0],
        **dict(zip(names, numbers, strict=False)),
        history=tuple(numbers[:3]),
        signals=tuple(numbers[: len(SIGNALS)]),
        positions=tuple(numbers[:4]),
        last_move=tuple(numbers[4:8]),
    )
    seen = SPEC.observe(broken, [broken, *population[1:]], segments=3, incumbent_score=numbers[-1], copy_allowed=True)
    assert np.isfinite(seen).all() and np.abs(seen).max() <= 4.0


def test_names_are_unique_and_as_documented() -> None:
    assert len(set(SPEC.features)) == SPEC.size == len(MEMBER_FEATURES) + 4 * len(SLOT_FEATURES)
    assert SPEC.features[: len(MEMBER_FEATURES)] == tuple(row.name for row in MEMBER_FEATURES)
    assert "hp/lr/position" in SPEC.features
    assert SPEC.features[SPEC.index("hp/lr/position")] == "hp/lr/position"


@few
@given(populations())
def test_what_the_table_gives_as_range_holds(population) -> None:
    rows = {row.name: row for row in MEMBER_FEATURES}
    seen = see(population[0], population)
    for name, row in rows.items():
        if row.range == "0, 1":
            assert seen[name] in (0.0, 1.0), name
        else:
            low, high = map(float, row.range.split(" to "))
            assert low <= seen[name] <= high, name


def test_padding_is_zero_and_leaves_the_rest_alone() -> None:
    padded = see(POPULATION[0], spec=ObservationSpec(SPACE, slots=6))
    plain = see(POPULATION[0])
    assert {name: padded[name] for name in plain} == plain
    assert all(padded[name] == 0.0 for name in padded if name.startswith("pad/"))
    assert len(padded) == len(plain) + 2 * len(SLOT_FEATURES)


def test_fewer_slots_than_hyperparameters_are_refused() -> None:
    with pytest.raises(ValueError, match="slots=3 must be at least the number of hyperparameters, 4"):
        ObservationSpec(SPACE, slots=3)


def test_before_the_first_report_nothing_is_known_but_the_place() -> None:
    fresh = MemberState.start(0, MIDDLE)
    seen = see(fresh, [fresh], incumbent_score=None, copy_allowed=False)
    assert (seen["first"], seen["rank"], seen["is_best"]) == (1.0, 0.5, 0.0)
    assert (seen["remaining"], seen["horizon_known"]) == (1.0, 1.0)
    unknown = ("gain", "to_best", "to_median", "to_incumbent", "change_1", "gap", "signals_known", "train_seconds")
    assert all(seen[name] == 0.0 for name in unknown)
    assert seen["hp/lr/position"] == 0.5


def test_time_is_seen_as_progress_where_the_end_is_known() -> None:
    state = replace(POPULATION[0], segment=5)
    seen = see(state)
    assert (seen["progress"], seen["remaining"]) == pytest.approx((0.25, 0.5625))
    assert (seen["last"], see(replace(state, segment=19))["last"]) == (0.0, 1.0)
    endless = see(state, segments=None)
    assert (endless["progress"], endless["remaining"], endless["horizon_known"]) == (0.0, 0.0, 0.0)
    assert endless["elapsed"] == pytest.approx(math.log(6) / 2)


def test_standing_is_relative_to_the_population() -> None:
    seen, best = see(POPULATION[0]), see(POPULATION[1])
    assert seen["to_best"] == pytest.approx(LOSS.of(0.5) - LOSS.of(0.2))
    assert seen["to_median"] == pytest.approx(0.0)
    assert seen["to_incumbent"] == pytest.approx(LOSS.of(0.5) - LOSS.of(0.2))
    assert (seen["rank"], seen["is_best"]) == (0.5, 0.0)
    assert (best["rank"], best["is_best"], best["to_best"]) == (0.0, 1.0, 0.0)
    assert see(POPULATION[2])["rank"] == 1.0


def test_a_task_with_ten_times_the_loss_looks_the_same() -> None:
    large = [live([100.0, loss], member=i, positions=(i / 2,) * 4) for i, loss in enumerate((50.0, 20.0, 80.0))]
    larger = [live([1000.0, loss], member=i, positions=(i / 2,) * 4) for i, loss in enumerate((500.0, 200.0, 800.0))]
    a = see(large[0], large, incumbent_score=LOSS.of(20.0))
    b = see(larger[0], larger, incumbent_score=LOSS.of(200.0))
    assert a == pytest.approx(b, abs=2e-3)


def test_course_shows_changes_the_own_best_and_the_gap() -> None:
    state = live([1.0, 0.1, 0.2])
    seen = see(state)
    assert seen["change_1"] == pytest.approx(LOSS.of(0.2) - LOSS.of(0.1))
    assert seen["change_2"] == seen["gain"] == pytest.approx(LOSS.of(0.2) - LOSS.of(1.0))
    assert seen["to_own_best"] == seen["change_1"]
    assert seen["own_best_age"] == pytest.approx(math.log(2) / 2)
    assert see(replace(state, gap=0.7))["gap"] == pytest.approx(0.7)


def test_signals_are_seen_in_documented_units() -> None:
    values = {"train_loss": 0.5, "loss_slope": -0.3, "loss_noise": 0.1, "grad_norm": 100.0, "update_norm": 1e-4}
    signals = tuple(values.get(name) for name in SIGNALS)
    seen = see(replace(POPULATION[0], signals=signals))
    assert seen["signals_known"] == pytest.approx(5 / 6)
    assert (seen["loss_slope"], seen["loss_noise"]) == pytest.approx((-0.3, 0.1))
    assert (seen["grad_norm"], seen["update_norm"]) == pytest.approx((2.0, -1.0))


def test_training_loss_and_time_are_relative_to_the_population() -> None:
    losses, seconds = (0.1, 0.2, 0.4), (1.0, 2.0, 4.0)
    states = [replace(s, train_loss=a, seconds=b) for s, a, b in zip(POPULATION, losses, seconds, strict=True)]
    seen = see(states[0], states)
    assert seen["train_loss"] == pytest.approx(math.log(0.22 / 0.12))
    assert seen["train_seconds"] == pytest.approx(math.log(0.5))


def test_a_failure_is_seen() -> None:
    seen = see(live([1.0, None], member=0), [live([1.0, None], member=0), *POPULATION[1:]])
    assert (seen["failed"], seen["restarts"], seen["rank"]) == (1.0, 0.5, 1.0)


def test_each_hyperparameter_shows_its_place_its_kind_and_its_role() -> None:
    state = replace(POPULATION[0], positions=(0.0, 1.0, 0.25, 0.5), last_move=(-0.1, 0.0, 0.0, 0.0))
    seen = see(state)
    assert (seen["hp/lr/at_lower"], seen["hp/lr/at_upper"]) == (1.0, 0.0)
    assert (seen["hp/dropout/at_lower"], seen["hp/dropout/at_upper"]) == (0.0, 1.0)
    assert seen["hp/lr/last_move"] == pytest.approx(-0.1)
    assert seen["hp/width/to_best"] == pytest.approx(0.5 - 0.25)
    assert seen["hp/width/spread"] == pytest.approx(np.std([0, 0.5, 1]))
    assert seen["hp/width/to_mean"] == pytest.approx(0.5 - 0.25)
    assert (seen["hp/width/live"], seen["hp/lr/live"]) == (0.0, 1.0)
    assert (seen["hp/lr/log"], seen["hp/dropout/log"]) == (1.0, 0.0)
    assert (seen["hp/activation/ordered"], seen["hp/width/ordered"]) == (0.0, 1.0)
    for h in SPACE:
        assert [role for role in SEEN_ROLES if seen[f"hp/{h.name}/role/{role}"]] == [h.role]


def test_where_the_best_are_is_shown_to_everybody() -> None:
    places = dict(zip([s.member for s in POPULATION], (0.2, 0.9, 0.4), strict=True))
    moved = [replace(s, positions=(places[s.member],) * 4) for s in POPULATION]
    best = max(moved, key=lambda s: s.score)
    for state in moved:
        seen = see(state, moved)
        assert seen["hp/width/lead"] == pytest.approx(best.positions[0] - 0.5), "the better half of three is one"
        assert seen["hp/width/to_mean"] == pytest.approx(0.5 - state.positions[0])


def test_augmentation_is_shown_as_dropout_and_widens_nothing() -> None:
    shown = {}
    for role in (roles.dropout, roles.augmentation):
        spec = ObservationSpec(SearchSpace.from_specs({"strength": role(tune.uniform(0.0, 0.5))}))
        state = live([0.5], positions=(0.25,))
        seen = spec.observe(state, [state], segments=20, incumbent_score=None, copy_allowed=True)
        shown[role.__name__] = dict(zip(spec.features, seen.tolist(), strict=True))
    assert shown["augmentation"] == shown["dropout"] and shown["dropout"]["hp/strength/role/dropout"] == 1.0


def test_the_population_is_seen_without_its_dead() -> None:
    dead = replace(live([0.001], member=7), alive=False)
    assert see(POPULATION[0], [*POPULATION, dead]) == see(POPULATION[0])
    assert see(POPULATION[0])["population"] == pytest.approx(math.log(3) / 2)


def test_statistics_worked_out_once_serve_every_member() -> None:
    stats = PopulationStats.of(POPULATION, len(SPACE))
    assert all(see(state, stats) == see(state, POPULATION) for state in POPULATION)


def test_the_order_of_the_members_does_not_matter() -> None:
    assert see(POPULATION[0], POPULATION[::-1]) == pytest.approx(see(POPULATION[0]))


def test_a_slot_tells_the_value_and_the_ends_of_its_range() -> None:
    seen = see(live([1.0], positions=(0.5, 0.5, 0.5, 0.5)))
    magnitudes = [seen[f"hp/lr/{name}"] for name in ("lower", "value", "upper")]
    assert magnitudes == pytest.approx([-2.0, 0.0, 2.0])  # 1e-4, 1e-2, 1: log10 + 2
    fractions = [seen[f"hp/dropout/{name}"] for name in ("lower", "value", "upper")]
    assert fractions == pytest.approx([0.0, math.asinh(0.3), math.asinh(0.6)])
    assert [seen[f"hp/activation/{name}"] for name in ("lower", "value", "upper")] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("sign", [-1.0, 0.0, 1.0])
def test_it_tells_the_optimiser(sign: float) -> None:
    assert see(POPULATION[0], spec=ObservationSpec(SPACE, optimiser=sign))["optimiser"] == sign


def test_the_ensemble_is_seen_only_where_it_is_the_objective() -> None:
    names = [row.name for row in MEMBER_FEATURES]
    about = names[names.index("ensemble") :]
    assert all(see(POPULATION[0])[name] == 0.0 for name in about)
    beginner = replace(POPULATION[0], ensemble=EnsembleStats())
    assert [see(beginner)[name] for name in about] == [1.0] + [0.0] * (len(about) - 1)
    team = EnsembleStats(
        contribution=0.1, weight=0.25, distance=0.4, nearest=0.3, spread=0.35, greedy=1.2, uniform=0.8, best=1.0
    )
    seen = see(replace(POPULATION[0], ensemble=team.after(EnsembleStats(greedy=1.1), incumbent=1.0)))
    alive = sum(state.alive for state in POPULATION)
    assert seen["contribution"] == seen["contribution_change"] == pytest.approx(0.1 * alive)
    assert (seen["greedy_weight"], seen["distance"], seen["nearest"]) == pytest.approx((0.25, 0.4, 0.3))
    assert (seen["ensemble_gain"], seen["uniform_gain"]) == pytest.approx((0.2, -0.2))
    assert (seen["team_spread"], seen["ensemble_change"]) == pytest.approx((0.35, 0.1))
