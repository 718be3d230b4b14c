"""The benchmark of ensembles: its arithmetic, whom it asks and when, and that it runs from one end to the other."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from quality import team_plots, team_summary, teams
from quality.harness import Plan, Result
from quality.judging import AGGREGATORS, CHOSEN, CLEAN, NOISE, SINGLE, Population, disturbed, judge, measure, noise
from quality.methods import Row
from quality.populations import static
from quality.protocol import SEGMENTS
from quality.starts import grid, narrow_grid, three_rates
from quality.statistics import incumbents
from quality.store import Job, jobs
from quality.teams import ALONE, TEAM, collect, judged, play, populations, team_rows

from raytune_rl.combining.losses import SMOOTHING
from raytune_rl.population.splits import Split, Splits
from raytune_rl.worlds.real import study_space
from raytune_rl.worlds.task import WorldTask

EVERY_INPUT = (CLEAN, *(noise(deviation) for deviation in NOISE), "shift")


def clouds(*, regression: bool = False) -> WorldTask:
    """Two clouds of points in a plane, by their number or by a value."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(120) % 2
    inputs = torch.randn(120, 2, generator=generator) + 2.0 * classes[:, None]
    targets = inputs.sum(dim=1, keepdim=True) if regression else classes
    parts = [Split(inputs=inputs[first::3], targets=targets[first::3]) for first in range(3)]
    outputs = 1 if regression else 2
    return WorldTask(
        name="clouds",
        splits=Splits(train=parts[0], validation=parts[1], test=parts[2]),
        network=lambda: torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.0), torch.nn.Linear(4, outputs)),
        loss="mse" if regression else "cross_entropy",
        optimizer="adam",
        batch_size=10,
        segment_length=2,
        space=study_space(smoothing=not regression),
    )


def figures(losses: dict[str, dict[str, float]], *, singles: dict[str, float] | None = None) -> pd.DataFrame:
    """``teams.collect``'s table of five seeds, 0.01 apart: by case and method the ensemble's loss of the first one. A
    single member loses 0.2 more than its ensemble, or what ``singles`` says."""
    apart = singles or {}
    return pd.DataFrame(
        [
            {"case": case, "group": "fresh", "method": method, "seed": seed, "predictor": predictor, "inputs": inputs}
            | {"loss": loss + 0.01 * seed + (apart.get(method, 0.2) if predictor == SINGLE else 0.0)}
            | {"accuracy": 1.0 - loss / 10, "ece": 0.1, "brier": 0.3, "used": 2, "disagreement": 0.1}
            for case, by_method in losses.items()
            for method, loss in by_method.items()
            for seed in range(5)
            for predictor in (SINGLE, *AGGREGATORS)
            for inputs in EVERY_INPUT
        ]
    )


def test_disturbed_inputs_are_the_same_every_time_and_as_far_off_as_they_say() -> None:
    inputs = torch.randn(4000, 2, 4, generator=torch.Generator().manual_seed(1))
    found, again = disturbed(inputs), disturbed(inputs)
    assert tuple(found) == EVERY_INPUT and torch.equal(found[CLEAN], inputs)
    for deviation in NOISE:
        assert torch.equal(found[noise(deviation)], again[noise(deviation)])
        assert float((found[noise(deviation)] - inputs).std()) == pytest.approx(deviation, rel=0.02)
    changed = (found["shift"] != inputs).flatten(1).any(dim=0)
    assert changed.tolist() == [False] * 3 + [True] * 2 + [False] * 3
    torch.testing.assert_close(found["shift"].flatten(1)[:, 3:5], inputs.flatten(1)[:, 3:5] * 1.5 + 1.0)


def test_figures_are_those_of_smoothed_probabilities() -> None:
    found = measure(
        np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]), np.array([0, 1, 1, 0]), "classification"
    )
    sure, wrong = 1.0 - SMOOTHING / 2, SMOOTHING / 2
    assert found["loss"] == pytest.approx(-(2 * np.log(sure) + np.log(wrong) + np.log(0.5)) / 4)
    assert found["accuracy"] == 0.75
    assert found["brier"] == pytest.approx((2 * 2 * wrong**2 + 2 * sure**2 + 0.5) / 4)
    assert found["ece"] == pytest.approx((abs(3 * sure - 2) + 0.5) / 4)


def test_who_has_diverged_knows_nothing() -> None:
    found = measure(np.array([[np.nan, 1.0], [0.0, 1.0]]), np.array([0, 1]), "classification")
    assert found["loss"] == pytest.approx(np.log(2))
    assert measure(np.array([[np.inf], [1.0]]), np.array([[2.0], [4.0]]), "regression")["loss"] == pytest.approx(10.0)


def test_members_are_chosen_on_validation_and_judged_on_test() -> None:
    targets = np.array([0, 0, 1, 1])
    right, wrong, lost = np.eye(2)[targets], np.eye(2)[1 - targets], np.full((4, 2), np.nan)
    test = {inputs: np.stack([wrong, right, right, lost]) for inputs in EVERY_INPUT}
    population = Population(
        validation=np.stack([right, wrong, wrong, lost]), test=test, single=dict.fromkeys(EVERY_INPUT, right)
    )
    found = judge(population, targets, targets, "classification").set_index(["predictor", "inputs"])
    assert len(found) == (1 + len(AGGREGATORS)) * len(EVERY_INPUT)
    assert found.loc[(CHOSEN, CLEAN), "accuracy"] == 0.0 and found.loc[(CHOSEN, CLEAN), "used"] == 1
    assert found.loc[(SINGLE, "shift"), "accuracy"] == 1.0
    assert found.loc[("uniform", CLEAN), "accuracy"] == 1.0 and found.loc[("uniform", CLEAN), "used"] == 3
    everybody = Population(validation=np.stack([lost] * 2), test={CLEAN: np.stack([lost] * 2)}, single={CLEAN: right})
    all_lost = judge(everybody, targets, targets, "classification").set_index("predictor")
    assert all_lost.loc[CHOSEN, "loss"] == pytest.approx(np.log(2))


@pytest.mark.parametrize("name", list(team_rows()))
def test_every_method_gives_eight_members_for_the_budget(name: str) -> None:
    task, kept = clouds(), []

    def method(task: WorldTask, plan: Plan) -> Result:
        kept.append(team_rows()[name].method(task, plan))
        return kept[0]

    found = populations(method, task, Plan(seeds=2))
    assert kept[0].validation.shape == (2, 8 * SEGMENTS)
    for run, population in enumerate(found):
        assert population.validation.shape == (8, 40, 2) and population.test["shift"].shape == (8, 40, 2)
        table = judged(population, task).set_index(["predictor", "inputs"])
        # the single member is the one that bench_quality reports for this run, here with smoothed probabilities
        assert table.loc[(SINGLE, CLEAN), "accuracy"] == pytest.approx(
            incumbents(kept[0].validation, kept[0].accuracy)[run, -1]
        )
        assert table.loc[(CHOSEN, CLEAN), "accuracy"] > 0.5


def test_members_are_asked_as_they_stand_at_the_end() -> None:
    task, kept = clouds(regression=True), []

    def method(task: WorldTask, plan: Plan) -> Result:
        kept.append(static(three_rates, cosine=True)(task, plan))
        return kept[0]

    found = populations(method, task, Plan(seeds=2))
    targets = task.splits.validation.targets.numpy()
    for run, population in enumerate(found):
        losses = ((population.validation - targets) ** 2).mean(axis=(1, 2))
        np.testing.assert_allclose(losses, kept[0].validation[run, -8:], rtol=1e-4)
    table = judged(found[0], task)
    assert table["accuracy"].isna().all() and (table["loss"] < 20.0).all()


def test_half_of_a_hyper_deep_ensemble_repeats_the_best_of_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int, np.ndarray]] = []

    def spied(starts, *, cosine: bool):  # type: ignore[no-untyped-def]
        def run(task: WorldTask, plan: Plan) -> Result:
            positions = [starts(task, plan.members, rng) for rng in plan.generators()]
            given.append((plan.members, plan.seed, np.stack(positions)))
            losses = np.tile(np.arange(plan.members, 0.0, -1.0), (plan.seeds, SEGMENTS))
            return Result(validation=losses, test=losses, accuracy=losses)

        return run

    monkeypatch.setattr(teams, "static", spied)
    result = teams.hyper_deep(clouds(), Plan(seeds=2))
    (searched, _, drawn), (repeated, seed, best) = given
    assert (searched, repeated) == (4, 4) and result.validation.shape == (2, 160) and seed != Plan().seed
    assert len(np.unique(drawn[..., 0])) == 8
    np.testing.assert_array_equal(best, np.repeat(drawn[:, 3:], 4, axis=1))


def test_grids_of_learning_rates() -> None:
    task, rng = clouds(), np.random.default_rng(0)
    rates = {
        starts: np.array([task.space.decode(row)["learning_rate"] for row in starts(task, 8, rng).tolist()])
        for starts in (narrow_grid, grid, three_rates)
    }
    assert rates[narrow_grid][[0, -1]] == pytest.approx([1e-3 / 9, 9e-3], rel=1e-5)
    assert rates[grid].min() < rates[narrow_grid].min()
    np.testing.assert_allclose(rates[three_rates], 1e-3 * 3.0 ** np.array([-1, 0, 1, -1, 0, 1, -1, 0]), rtol=1e-5)


def test_a_case_is_measured_in_deviations_of_the_best_baselines() -> None:
    everything = {name: team_rows()[name] for name in ("PBT/1", "hyper-deep", TEAM)}
    losses = {
        "a": {"PBT/1": 1.0, "hyper-deep": 1.2, TEAM: 1.1},
        "b": {"PBT/1": 0.5, "hyper-deep": 0.6, TEAM: 0.4},
        "c": {"PBT/1": 0.5, "hyper-deep": 0.3, TEAM: 0.4},
    }
    table = figures(losses)
    found = team_summary.analyse(table, everything)
    against = team_summary.cases(table, found)
    assert team_summary.best_baseline(found) == "PBT/1"
    deviation = float(np.std(0.01 * np.arange(5), ddof=1))
    assert list(against["overall_units"]) == pytest.approx([0.1 / deviation, -0.1 / deviation, -0.1 / deviation])
    assert list(against["which"]) == ["PBT/1", "PBT/1", "hyper-deep"]
    assert against.loc["c", "best_units"] == pytest.approx(0.1 / deviation)
    assert list(against["loses"]) == [True, False, False]


@pytest.mark.parametrize(("loss", "single", "expected"), [(0.5, 0.1, [True] * 5), (1.5, 0.4, [False] * 5)])
def test_goals_are_judged_by_our_ensemble(loss: float, single: float, expected: list[bool]) -> None:
    everything = {name: team_rows()[name] for name in ("PBT/1", "hyper-deep", ALONE, TEAM)}
    by_method = {"PBT/1": 1.0, "hyper-deep": 1.2, ALONE: loss, TEAM: loss}
    table = figures({"a": by_method, "b": by_method}, singles={TEAM: single})
    found = team_summary.analyse(table, everything)
    assert [goal.reached for goal in team_summary.goals(table, found)] == expected
    assert found.loc["PBT/1", "better"] == (1.0 if expected[0] else 0.0)
    assert found.loc["PBT/1", "single_log_loss"] > found.loc["PBT/1", "log_loss"]


def test_from_one_end_to_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("hand default + cosine", "PBT/1 from grid", "controller, untrained")
    chosen: dict[str, Row] = {name: team_rows()[name] for name in names}
    monkeypatch.setattr(teams, "task_of", lambda name, optimizer: clouds())
    done: list[Job] = jobs(
        tmp_path, [("wine", "sgd"), ("topics", "adam")], chosen, members=8, seeds=2, controller=None, ending="parquet"
    )
    for job in done:
        play(job)
    finals = collect(done)
    assert len(finals) == 2 * 3 * 2 * 4 * 5 and set(finals["group"]) == {"seen", "fresh"}
    assert finals[["loss", "accuracy", "ece", "brier"]].notna().all().all()
    found = team_summary.analyse(finals, chosen)
    console = Console(width=118, record=True, file=open(tmp_path / "screen", "w"))  # noqa: SIM115
    team_summary.show(console, "Two cases", found)
    team_summary.show_cases(console, finals, found)
    text = console.export_text()
    assert all(name in text for name in names) and "noise 0.25" in text and "nan" not in text
    team_plots.gains(found, "two cases", tmp_path / "gains.png")
    team_plots.robustness(found, "two cases", tmp_path / "robustness.png")
    assert (tmp_path / "gains.png").stat().st_size > 10_000 < (tmp_path / "robustness.png").stat().st_size
