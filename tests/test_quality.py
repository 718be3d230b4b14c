"""The benchmark's own arithmetic, that all of its methods spend the same budget, and that it goes on where it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from quality import store
from quality.cases import group_of
from quality.harness import GlobalRandomness, Log, Plan, Result
from quality.methods import Row, rows
from quality.protocol import MEMBERS, NOT_IN_SHORT, RANKED, SEGMENTS, SHORT, SIMPLE
from quality.searches import _Sampler, rungs_of
from quality.starts import grid
from quality.statistics import (
    against_simple,
    anytime_ranks,
    budget_to_match,
    improvement,
    incumbents,
    judged,
    normalised,
    table,
)
from quality.summary import analyse, goals

from raytune_rl.combining.calibration import cost_of_doubt
from raytune_rl.population.splits import Split, Splits
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.delivery import Delivered
from raytune_rl.worlds.real import FRESH, SEEN, study_space
from raytune_rl.worlds.task import WorldTask


@pytest.fixture(scope="module")
def tiny() -> WorldTask:
    """Two clouds of points in a plane."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(90) % 2
    inputs = torch.randn(90, 2, generator=generator) + 2.0 * targets[:, None]
    parts = [Split(inputs=inputs[first::3], targets=targets[first::3]) for first in range(3)]
    return WorldTask(
        name="tiny",
        splits=Splits(train=parts[0], validation=parts[1], test=parts[2]),
        network=lambda: torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.0), torch.nn.Linear(4, 2)),
        loss="cross_entropy",
        optimizer="adam",
        batch_size=10,
        segment_length=2,
        space=study_space(),
    )


def results(losses: dict[str, dict[str, float]], *, seeds: int = 10, spread: float = 0.001) -> pd.DataFrame:
    """Finals: by case and method the loss of the first seed; every next seed loses ``spread`` more."""
    return pd.DataFrame(
        [
            {"case": case, "method": method, "seed": seed, "loss": loss + spread * seed, "accuracy": 1.0 - loss / 10}
            for case, by_method in losses.items()
            for method, loss in by_method.items()
            for seed in range(seeds)
        ]
    )


def _needs(method: str) -> None:
    if method.startswith("BOHB"):
        pytest.importorskip("hpbandster", reason="BOHB is in the extra 'bench'")


def test_the_incumbent_is_chosen_by_validation_and_judged_by_test() -> None:
    validation = np.array([[3.0, 1.0, 2.0, np.nan, 0.5]])
    test = np.array([[30.0, 10.0, 5.0, 0.0, 50.0]])
    np.testing.assert_array_equal(incumbents(validation, test), [[30.0, 10.0, 10.0, 10.0, 50.0]])


def test_a_model_is_the_best_checkpoint_until_the_first_segment_is_done_and_then_what_is_delivered() -> None:
    values = np.array([[5.0, 4.0, 6.0, 3.0, 2.0, 1.0, 7.0]])
    averages = np.array([[3.5, 2.5]])
    plain = Result(validation=values[:, :6], test=10 * values[:, :6], accuracy=values[:, :6] / 10)
    np.testing.assert_array_equal(judged(plain, "test"), [[50.0, 40.0, 40.0, 30.0, 20.0, 10.0]])
    delivered = Delivered(validation=averages, test=100 * averages, accuracy=averages / 100)
    found = replace(plain, delivered=delivered)
    np.testing.assert_array_equal(judged(found, "test"), [[50.0, 40.0, 350.0, 350.0, 350.0, 250.0]])
    np.testing.assert_allclose(judged(found, "accuracy"), [[0.5, 0.4, 0.035, 0.035, 0.035, 0.025]])


def test_improvement_counts_ties_half_and_knows_its_uncertainty() -> None:
    finals = results({case: {"good": 1.0, "bad": 2.0, "same": 1.0} for case in ("a", "b")})
    assert improvement(finals, "good", "bad") == pytest.approx((1.0, 1.0, 1.0))
    assert improvement(finals, "bad", "good", figure="accuracy") == pytest.approx((0.0, 0.0, 0.0))
    middle, low, high = improvement(finals, "good", "same")
    assert middle == pytest.approx(0.5) and low < 0.5 < high


def test_ranks_share_ties_and_come_with_intervals() -> None:
    found = table(results({case: {"good": 1.0, "bad": 2.0, "same": 1.0} for case in ("a", "b")}))
    assert list(found["rank_loss"]) == [1.5, 1.5, 3.0] and list(found["rank_accuracy"]) == [1.5, 1.5, 3.0]
    assert found.loc["bad", ["rank_loss_low", "rank_loss_high"]].tolist() == [3.0, 3.0]
    assert found.loc["good", "rank_loss_low"] == 1.0 and found.loc["good", "rank_loss_high"] == 2.0
    assert found.loc["bad", "log_loss"] == pytest.approx(np.mean(np.log(2.02 + 0.001 * np.arange(10))))


def test_an_unranked_row_moves_nobody_and_stands_in_for_the_ranked_one() -> None:
    losses = {"a": {"ours": 2.0, "peer": 1.5, "better ours": 1.0}}
    found = table(results(losses), ["better ours"], stand_in="ours")
    assert found["rank_loss"].to_dict() == {"better ours": 1.0, "peer": 1.0, "ours": 2.0}


def test_scores_are_zero_for_random_search_and_one_for_the_best() -> None:
    finals = results({"a": {"best": 0.5, "random": 2.0, "middle": 1.0}}, spread=0.0)
    cube = finals.pivot_table(index=["case", "method"], columns="seed", values="loss").sort_index()
    best, middle, random = normalised(cube)[0, :, 0]
    assert best == 1.0 and random == 0.0
    assert middle == pytest.approx(np.log(2.02 / 1.02) / np.log(2.02 / 0.52))
    found = table(finals)
    assert found.loc["middle", "iqm"] == pytest.approx(middle)


def test_budget_to_match() -> None:
    ours, peer = np.array([[4.0, 3.0, 2.0, 1.0]]), np.array([[5.0, 5.0, 4.0, 3.0]])
    curves = {"case": {"ours": ours, "peer": peer, "weak": 2 * peer}}
    assert budget_to_match(curves, "ours", "peer") == 0.5
    assert budget_to_match(curves, "peer", "ours") == np.inf
    assert budget_to_match(curves, "ours", peers=["peer", "weak"]) == 0.5
    np.testing.assert_array_equal(anytime_ranks(curves).to_numpy()[-1], [1.0, 2.0, 3.0])


def test_a_case_is_lost_only_beyond_the_deviation_of_the_simple_baseline() -> None:
    finals = results({"near": {"ours": 1.02, "simple": 1.0}, "far": {"ours": 1.5, "simple": 1.0}}, spread=0.01)
    found = against_simple(finals, "ours", "simple")
    assert found["loses"].to_dict() == {"far": True, "near": False}
    assert found.loc["near", "deviation"] == pytest.approx(np.std(0.01 * np.arange(10), ddof=1))


@pytest.mark.parametrize(("loss", "expected"), [(0.5, [True] * 5), (3.0, [False] * 5)])
def test_goals_are_judged_by_the_ranked_row(loss: float, expected: list[bool]) -> None:
    everything = {name: row for name, row in rows().items() if name in (RANKED, SIMPLE, "TPE", "random")}
    finals = results({"a": {RANKED: loss, SIMPLE: 1.0, "TPE": 0.9, "random": 2.0}})
    curves = {
        "a": {name: np.linspace(4.0, end, 8)[None] for name, end in finals.groupby("method")["loss"].min().items()}
    }
    if expected[0]:
        curves["a"][RANKED][:, 3:] = loss
    found = goals(analyse(finals, curves, everything), finals, curves, members=MEMBERS)
    assert [goal.reached for goal in found] == expected


@pytest.mark.parametrize("name", list(rows()))
def test_every_method_spends_exactly_the_budget(name: str, tiny: WorldTask) -> None:
    _needs(name)
    trained: list[int] = []

    class Counting(Log):
        def add(self, cohort: Cohort, validation: np.ndarray, delivered: Delivered | None = None) -> np.ndarray:
            trained.append(validation.size)
            return super().add(cohort, validation, delivered)

    plan = Plan(members=8, seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("populations", "searches"):
            patch.setattr(f"quality.{module}.Log", Counting)
        result = rows()[name].method(tiny, plan)
    assert sum(trained) == 2 * plan.budget == 2 * 8 * SEGMENTS
    for values in (result.validation, result.test, result.accuracy):
        assert values.shape == (2, plan.budget) and np.isfinite(values).mean() > 0.95
    assert judged(result, "accuracy")[:, -1].min() > 0.6
    assert (result.delivered is not None) == rows()[name].delivers
    if result.delivered is not None:
        for values in (result.delivered.validation, result.delivered.test, result.delivered.accuracy):
            assert values.shape == (2, SEGMENTS) and np.isfinite(values).all()
        best = incumbents(result.validation, result.validation)[:, plan.members - 1 :: plan.members]
        if name.endswith("refit"):  # judged by rows that its copies have not seen, and not by those that chose it
            return
        assert (result.delivered.validation <= best + cost_of_doubt(len(tiny.splits.validation)) + 1e-5).all()
        np.testing.assert_array_equal(judged(result, "test")[:, -1], result.delivered.test[:, -1])


@pytest.mark.parametrize(
    ("delivering", "without"),
    [
        (RANKED, "ours, best checkpoint"),
        ("PBT/1 from grid, averaged", "PBT/1 from grid"),
        ("PBT/2 from grid + cosine, averaged", "PBT/2 from grid + cosine"),
        ("grid + cosine, averaged", "grid + cosine"),
    ],
)
def test_averaging_is_all_that_such_rows_differ_in(delivering: str, without: str, tiny: WorldTask) -> None:
    assert rows()[delivering].delivers and not rows()[without].delivers
    found, plain = (rows()[name].method(tiny, Plan(seeds=2)) for name in (delivering, without))
    for name in ("validation", "test", "accuracy"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


@pytest.mark.parametrize("name", ["PBT/2", "PB2", "ASHA", "BOHB", "TPE"])
def test_a_method_repeats_itself_and_leaves_the_global_generators_alone(name: str, tiny: WorldTask) -> None:
    _needs(name)
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first, again = (rows()[name].method(tiny, Plan(seeds=1, seed=5)).validation for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_method_that_leaves_budget_is_refused(tiny: WorldTask) -> None:
    with pytest.raises(RuntimeError, match="trained 0 of 160"):
        Log(Plan()).result()


def test_brackets_are_rays_and_fill_the_budget() -> None:
    brackets = [rungs_of(n) for n in range(4)]
    assert brackets == [[(16, 1), (4, 4), (1, 16)], [(6, 5), (2, 20)], [(3, 20)], brackets[0]]
    spent = [
        sum(n * (until - since) for (n, until), (_, since) in zip(b, [(0, 0), *b], strict=False)) for b in brackets
    ]
    assert sum(spent[:3]) == MEMBERS * SEGMENTS


def test_bohb_asks_its_model() -> None:
    _needs("BOHB")
    sampler = _Sampler(("a", "b"), seed=0)
    for _ in range(24):
        position = sampler.ask()
        sampler.tell(np.array(position), (position[0] - 0.3) ** 2, 1)
    assert sampler.modelled > 6
    assert np.mean([abs(sampler.ask()[0] - 0.3) for _ in range(12)]) < 0.3


def test_a_stopped_trial_leaves_its_place_to_fresh_weights(tiny: WorldTask) -> None:
    cohort = Cohort(tiny, range(3), seed=0, restartable=True)
    before = cohort.score(tiny.splits.train)[0]
    cohort.apply([tiny.space.decode([0.8, 0.0, 0.0, 0.0])] * 3)
    cohort.train()
    trained = cohort.score(tiny.splits.train)[0]
    cohort.restart([1])
    after = cohort.score(tiny.splits.train)[0]
    assert after[1] in before and after[1] != trained[1]
    np.testing.assert_array_equal(after[[0, 2]], trained[[0, 2]])


def test_libraries_draw_from_streams_of_their_own() -> None:
    streams = [GlobalRandomness(seed) for seed in (1, 1, 2)]
    draws = []
    for stream in (*streams, streams[0]):
        with stream:
            draws.append(float(np.random.rand()))
    assert draws[0] == draws[1] and len({*draws}) == 3


def test_the_grid_is_a_factor_three_apart_within_the_space(tiny: WorldTask) -> None:
    rates = [tiny.space.decode(row)["learning_rate"] for row in grid(tiny, 8, np.random.default_rng(0)).tolist()]
    np.testing.assert_allclose(rates, np.maximum(1e-3 * 3.0 ** np.arange(-5, 3), 1e-5), rtol=1e-6)


def test_the_short_form_has_seen_and_fresh_cases_and_the_declared_rows_exist() -> None:
    assert {name for name, _ in SHORT} <= {*SEEN, *FRESH} and len(FRESH) >= 6 and not {*SEEN} & {*FRESH}
    assert rows()[RANKED].kind == "ours" and rows()[SIMPLE].kind == "simple" and {*NOT_IN_SHORT} < {*rows()}
    assert rows()[RANKED].delivers and not any(r.delivers for r in rows().values() if r.kind in ("simple", "peer"))


def test_a_killed_run_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[str] = []

    def method(task: WorldTask, plan: Plan) -> Result:
        played.append(f"{plan.seeds} from {plan.seed}")
        values = np.arange(plan.seeds * plan.budget, dtype=float).reshape(plan.seeds, -1)
        return Result(validation=values, test=values, accuracy=values)

    def killed(source: str, target: str) -> None:
        raise KeyboardInterrupt

    three = {name: Row(kind="simple", method=method, together=80) for name in ("one", "two", "three + cosine")}
    monkeypatch.setattr(store, "_rows", lambda controller: three)
    jobs = store.jobs(tmp_path, [("wine", "sgd")], three, members=8, seeds=5, controller=None)
    store.play(jobs[0])
    assert played == ["2 from 1000", "2 from 1002", "1 from 1004"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.play(jobs[1])
    assert [job.path.exists() for job in jobs] == [True, False, False]
    list(store.run([job for job in jobs if not job.path.exists()], store.play, workers=1))
    finals, curves = store.collect(jobs)
    assert len(finals) == 15 and curves["wine/sgd"]["two"].shape == (5, 160)
    pd.testing.assert_frame_equal(
        store.curve_table(curves).groupby("method")["median"].last().to_frame(),
        pd.DataFrame({"median": [0.0] * 3}, index=pd.Index(sorted(three), name="method")),
        check_dtype=False,
    )


def _until(happens: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # nobody may be there to bury it
    except psutil.NoSuchProcess:
        return False


def test_a_killed_benchmark_leaves_nobody_behind(tmp_path: Path) -> None:
    """Its processes would train on, unseen, beside the next one's."""
    (tmp_path / "busy.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from quality import store\n"
        "def play(job):\n"
        "    Path(__file__).with_name(f'worker-{os.getpid()}').touch()\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    list(store.run([1, 2], play, workers=2))\n"
    )
    paths = os.pathsep.join([str(Path(store.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    main = subprocess.Popen([sys.executable, tmp_path / "busy.py"], env={**os.environ, "PYTHONPATH": paths})
    try:
        _until(lambda: len(list(tmp_path.glob("worker-*"))) == 2, seconds=120)
    finally:
        main.kill()
        main.wait()
    workers = [int(path.name.removeprefix("worker-")) for path in tmp_path.glob("worker-*")]
    _until(lambda: not any(_lives(pid) for pid in workers), seconds=30)


def test_averages_are_kept_and_are_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def method(task: WorldTask, plan: Plan) -> Result:
        values = np.tile(np.arange(plan.budget, 0.0, -1.0), (plan.seeds, 1))
        averages = plan.seed + np.tile(np.arange(SEGMENTS, dtype=float), (plan.seeds, 1))
        delivered = Delivered(validation=averages, test=averages, accuracy=-averages)
        return Result(validation=values, test=values, accuracy=values, delivered=delivered)

    one = {"averaged": Row(kind="simple", method=method, together=80, delivers=True)}
    monkeypatch.setattr(store, "_rows", lambda controller: one)
    (job,) = store.jobs(tmp_path, [("wine", "sgd")], one, members=8, seeds=5, controller=None)
    (without,) = store.jobs(
        tmp_path,
        [("wine", "sgd")],
        {name: replace(row, delivers=False) for name, row in one.items()},
        members=8,
        seeds=5,
        controller=None,
    )
    assert job.path != without.path
    store.play(job)
    result = store.read(job.path)
    assert result.delivered is not None and result.delivered.test.shape == (5, SEGMENTS)
    finals, curves = store.collect([job])
    last = [plan + SEGMENTS - 1.0 for plan in (1000, 1000, 1002, 1002, 1004)]
    assert finals["loss"].tolist() == last and finals["accuracy"].tolist() == [-value for value in last]
    assert curves["wine/sgd"]["averaged"][0, [0, 6, 7, 14, 15, 159]].tolist() == [160, 154, 1000, 1000, 1001, 1019]


def test_results_of_two_controllers_lie_apart_and_the_fields_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "fingerprint", lambda directory: str(directory))
    everything = {name: rows()[name] for name in (RANKED, "TPE", "controller, untrained")}
    paths = [
        {
            job.method: job.path
            for job in store.jobs(Path("out"), [("wine", "sgd")], everything, members=8, seeds=2, controller=controller)
        }
        for controller in ("a", "b")
    ]
    assert [paths[0][name] == paths[1][name] for name in everything] == [False, True, False]


def test_a_task_belongs_to_one_comparison() -> None:
    assert [group_of(name) for name in ("digits", "german", "pima", "leaves")] == ["seen", "fresh", "tables", "tables"]
