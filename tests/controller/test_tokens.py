"""The token network: any search space, the same mathematics in numpy and torch, and sampling that covers a space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ray import tune
from scipy.stats import qmc

from raytune_rl.controller import Situation
from raytune_rl.controller.tokens import (
    IMPOSSIBLE,
    TokenPolicy,
    halton,
    initial_weights,
    policy_logits,
    shapes,
    spread,
    values,
)
from raytune_rl.hyperparameters import LEVELS, STAY, SearchSpace, roles
from raytune_rl.mdp.action import SOURCES, ActionSpec
from raytune_rl.mdp.features import MEMBER_FEATURES
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.records import Report
from tests.controller.worlds import Paper, make_controller

RATE = {"lr": roles.learning_rate(tune.loguniform(1e-5, 1.0))}
FOUR = {
    **RATE,
    "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
    "init": roles.initialisation(tune.choice(["xavier", "kaiming"])),
    "unheard": tune.uniform(3.0, 5.0),
}
SPACES = [RATE, FOUR, {f"x{index}": tune.uniform(0.0, index + 1.0) for index in range(20)}]


def weights(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: scale * rng.standard_normal(shape).astype(np.float32) / 4 for name, shape in shapes().items()}


def observations(spec: ObservationSpec, rows: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).uniform(-1, 1, (rows, spec.size)).astype(np.float32)
    for flag, every in {"first": 4, "copy_allowed": 3, "ensemble": 2, "is_best": 5}.items():
        found[:, spec.index(flag)] = np.arange(rows) % every == 0
    found[::2, [spec.index(name) for name in ("progress", "rank", "population")]] = (0.2, 1.0, 1.5)
    for name in spec.features:
        if name.endswith(("/present", "/live", "/ordered")):
            found[:, spec.index(name)] = 1.0
    return found


@pytest.mark.parametrize("specs", SPACES)
def test_numpy_and_torch_agree(specs) -> None:
    spec = ObservationSpec(SearchSpace.from_specs(specs))
    seen, network = observations(spec, 12), weights()
    tensors = {name: torch.tensor(value) for name, value in network.items()}
    by_torch = policy_logits(tensors, torch.tensor(seen), torch)
    np.testing.assert_allclose(policy_logits(network, seen, np), by_torch.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values(network, seen, np), values(tensors, torch.tensor(seen), torch), atol=1e-4)


def test_the_order_of_the_hyperparameters_does_not_matter() -> None:
    spec = ObservationSpec(SearchSpace.from_specs(FOUR))
    seen, network = observations(spec, 6), weights()
    member, slots = seen[:, : len(MEMBER_FEATURES)], seen[:, len(MEMBER_FEATURES) :].reshape(6, 4, -1)
    turned = np.concatenate([member, slots[:, ::-1].reshape(6, -1)], axis=1)
    plain, other = policy_logits(network, seen, np), policy_logits(network, turned, np)
    heads = plain[:, : 4 * LEVELS].reshape(6, 4, LEVELS)
    np.testing.assert_allclose(other[:, : 4 * LEVELS].reshape(6, 4, LEVELS), heads[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(other[:, 4 * LEVELS :], plain[:, 4 * LEVELS :], atol=1e-5)


def test_empty_slots_change_nothing_and_stay() -> None:
    space = SearchSpace.from_specs(FOUR)
    spec, padded = ObservationSpec(space), ObservationSpec(space, slots=6)
    seen = observations(spec, 5)
    wide = np.zeros((5, padded.size), dtype=np.float32)
    wide[:, : spec.size] = seen
    plain, other = policy_logits(weights(), seen, np), policy_logits(weights(), wide, np)
    np.testing.assert_allclose(other[:, : 4 * LEVELS], plain[:, : 4 * LEVELS], atol=1e-5)
    np.testing.assert_allclose(other[:, -len(SOURCES) :], plain[:, -len(SOURCES) :], atol=1e-5)
    assert (other[:, 4 * LEVELS : 6 * LEVELS].reshape(5, 2, LEVELS).argmax(axis=-1) == STAY).all()


def test_choices_are_the_same_whether_slots_are_empty_or_not() -> None:
    space = SearchSpace.from_specs(FOUR)
    found = []
    for slots in (None, 4, 7):
        spec = ObservationSpec(space, slots=slots)
        policy = TokenPolicy(weights(scale=3.0))
        policy.bind(spec, ActionSpec(space), seed=3)
        seen = np.zeros((40, spec.size), dtype=np.float32)
        seen[:, : ObservationSpec(space).size] = observations(ObservationSpec(space), 40)
        situations = [
            Situation(member=m, segment=1, first=bool(row[spec.index("first")]), observation=row, seed=m)
            for m, row in enumerate(seen)
        ]
        found.append([(choice.action, round(choice.logp, 4)) for choice in policy.act(situations)])
    assert found[0] == found[1] == found[2]
    assert len({action[-1] for action, _ in found[0]}) > 1  # the source is chosen, too


@pytest.mark.parametrize("specs", SPACES)
def test_it_steers_any_space_through_a_whole_run(specs) -> None:
    space = SearchSpace.from_specs(specs)
    for population in (1, 5):
        controller = make_controller(
            TokenPolicy(weights(scale=3.0)),
            space=space,
            observation=ObservationSpec(space),
            actions=ActionSpec(space, copy_every=2, stopping=population == 5),
            agent_starts=True,
            population=population,
        )
        paper = _Numbers(controller, population)
        steps = paper.play()
        for decision in (d for step in steps for d in step.decisions if not d.stop):
            assert space.encode(decision.hyperparameters) is not None


def test_what_it_knows_nothing_of_stays_after_the_start() -> None:
    space = SearchSpace.from_specs(FOUR)
    spec = ObservationSpec(space)
    seen = observations(spec, 4)
    seen[:, spec.index("hp/init/ordered")] = 0.0
    seen[:, spec.index("first")] = [1, 0, 1, 0]
    init = policy_logits(weights(), seen, np)[:, 2 * LEVELS : 3 * LEVELS]
    assert np.allclose(init[[0, 2]], 0.0)
    assert (init[[1, 3]] == np.where(np.arange(LEVELS) == STAY, 0.0, IMPOSSIBLE)).all()


def test_a_fresh_network_spreads_learning_rates_about_the_hand_default() -> None:
    space = SearchSpace.from_specs(RATE)
    for sign, centre in ((1.0, 5e-3), (-1.0, 0.15)):
        spec = ObservationSpec(space, optimiser=sign)
        policy = TokenPolicy(initial_weights(0))
        controller = make_controller(
            policy, space=space, observation=spec, actions=ActionSpec(space), agent_starts=True, population=32
        )
        rates = [float(controller.begin(member).hyperparameters["lr"]) for member in range(32)]
        assert abs(np.median(np.log10(rates)) - np.log10(centre)) < 0.6
        assert len(set(rates)) >= 3


def test_a_small_population_covers_what_the_network_asks_for() -> None:
    space = SearchSpace.from_specs(RATE)
    policy = TokenPolicy(initial_weights(0))
    policy.bind(ObservationSpec(space, optimiser=1.0), ActionSpec(space), seed=3)
    start = np.zeros((1, ObservationSpec(space).size), dtype=np.float32)
    spec = ObservationSpec(space)
    for name, value in {"first": 1.0, "optimiser": 1.0, "hp/lr/present": 1.0, "hp/lr/ordered": 1.0}.items():
        start[0, spec.index(name)] = value
    shares = np.exp(policy_logits(policy.weights, start, np)[0, :LEVELS])
    shares /= shares.sum()
    situations = [Situation(member=m, segment=0, first=True, observation=start[0], seed=m) for m in range(32)]
    found = np.bincount([choice.action[0] for choice in policy.act(situations)], minlength=LEVELS) / 32
    assert np.abs(found - shares).max() < 0.08  # 32 independent draws would be off by more, now and then


def test_halton_is_scipys() -> None:
    theirs = qmc.Halton(6, scramble=False).fast_forward(1).random(64)
    ours = [[halton(index, dimension) for dimension in range(6)] for index in range(64)]
    np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize("members", [8, 16])
def test_a_small_population_covers_every_one_of_twenty_hyperparameters(members: int) -> None:
    levels, chance = np.zeros(20), []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        shifts = rng.random(20)
        points = np.array([spread(member, shifts) for member in range(members)])
        levels += [len(set((column * LEVELS).astype(int))) / 100 for column in points.T]
        chance.append(len(set((rng.random(members) * LEVELS).astype(int))))
    # On average more than independent draws would cover, and nowhere much less.
    assert levels.mean() > np.mean(chance) and levels.min() > np.mean(chance) - 1.0
    between = np.abs(np.corrcoef(points.T) - np.eye(20))
    assert between.mean() < 0.35


def test_weights_of_another_version_are_refused() -> None:
    broken = {name: value for name, value in weights().items() if name != "actor.source.bias"}
    with pytest.raises(ValueError, match=r"another version: actor\.source\.bias"):
        TokenPolicy(broken)


class _Numbers(Paper):
    """Members whose loss knows nothing of their hyperparameters."""

    def report(self, member, **changes):
        self.losses[member] *= 0.9
        decision = self.decisions[member]
        return Report(
            member=member,
            segment=decision.segment,
            steps=decision.segment + 1,
            metrics={"loss": self.losses[member]},
            hyperparameters=decision.hyperparameters,
            decision=decision.segment,
        )
