"""How many trials, which members in which, and the sentence that says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.errors import BadInput
from raytune_rl.runs.placement import check_machine, place, slots, this_machine

LAPTOP = [{"CPU": 2.0, "memory": 8e9}]
CLUSTER = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}]


def sizes(resources: dict[str, float], nodes: list[dict[str, float]], population: int = 8) -> list[int]:
    placement = place(population=population, members_per_trial="auto", resources=resources, nodes=nodes)
    return [len(group) for group in placement.groups]


def test_a_laptop_gets_a_trial_per_core() -> None:
    placement = place(population=8, members_per_trial="auto", resources={"CPU": 1}, nodes=LAPTOP)
    assert placement.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert placement.reason == (
        '8 members in 2 trials; members_per_trial="auto": 2 trials of 1 CPU fit at once on 1 node with 2 CPU'
    )


@pytest.mark.parametrize(
    ("resources", "trials"),
    [
        ({"CPU": 1, "GPU": 1}, 4),  # one GPU each
        ({"CPU": 1, "GPU": 2}, 2),  # several GPUs in a trial
        ({"CPU": 1, "GPU": 0.5}, 8),  # two trials share a GPU
        ({"CPU": 1, "GPU": 0.4}, 8),  # still two: a share lies on one GPU
        ({"CPU": 1, "GPU": 0.1}, 16),  # the cores are what is scarce
        ({"CPU": 3}, 5),  # a trial lies on one node: 2 + 2 + 1, not 20 / 3
        ({"CPU": 2}, 10),
    ],
)
def test_trials_that_fit_on_a_cluster(resources: dict[str, float], trials: int) -> None:
    assert len(sizes(resources, CLUSTER, population=64)) == trials


def test_there_are_no_more_trials_than_members() -> None:
    assert sizes({"CPU": 1}, CLUSTER, population=3) == [1, 1, 1]


def test_a_number_of_members_per_trial_is_kept() -> None:
    placement = place(population=7, members_per_trial=3, resources={"CPU": 1}, nodes=CLUSTER)
    assert [len(group) for group in placement.groups] == [3, 2, 2]
    assert placement.reason.startswith(
        "7 members in 3 trials; members_per_trial=3: 20 trials of 1 CPU fit at once on 3"
    )


@pytest.mark.parametrize(
    ("resources", "members_per_trial", "message"),
    [
        ({"CPU": 4}, "auto", "resources asks for 4 CPU per trial, and the cluster has 2 CPU."),
        ({"CPU": 1, "GPU": 1}, "auto", "and the cluster has 0 GPU."),
        ({"GPU": 1.5}, "auto", "resources asks for 1.5 GPU per trial; above 1, Ray gives whole GPUs only."),
        ({"CPU": 1}, 2, 'which makes 4 trials of 1 CPU, and only 2 can run at once on 1 node with 2 CPU; use "auto"'),
    ],
)
def test_what_does_not_fit_is_said(resources: dict[str, float], members_per_trial: int, message: str) -> None:
    with pytest.raises(BadInput) as error:
        place(population=8, members_per_trial=members_per_trial, resources=resources, nodes=LAPTOP)
    assert message in str(error.value)


def test_resources_that_no_node_has_together() -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}]
    with pytest.raises(BadInput, match="no node of 2 nodes with 9 CPU, 1 GPU has all of that"):
        sizes({"CPU": 2, "GPU": 1}, nodes)
    with pytest.raises(BadInput, match="no node has more than 8 CPU"):
        sizes({"CPU": 9}, nodes)


def test_the_own_machine_is_checked_before_ray_starts() -> None:
    machine = this_machine()
    check_machine({"CPU": 1}, machine)
    with pytest.raises(BadInput, match=f"asks for 1000 CPU per trial, and this machine has {machine['CPU']}"):
        check_machine({"CPU": 1000}, machine)


@given(
    population=st.integers(1, 300),
    amount=st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5, 1.0, 2.0]),
    nodes=st.lists(st.integers(0, 8), min_size=1, max_size=5),
)
def test_every_member_has_one_place_and_no_node_too_many(population: int, amount: float, nodes: list[int]) -> None:
    has = [{"GPU": float(count), "CPU": 64.0} for count in nodes]
    fit = sum(slots({"GPU": amount}, node) for node in has)
    if fit == 0:
        return
    placement = place(population=population, members_per_trial="auto", resources={"GPU": amount}, nodes=has)
    assert [m for group in placement.groups for m in group] == list(range(population))
    assert len(placement.groups) == min(population, fit)
    assert max(map(len, placement.groups)) - min(map(len, placement.groups)) <= 1
    assert all(slots({"GPU": amount}, node) * amount <= node["GPU"] + 1e-6 for node in has)
