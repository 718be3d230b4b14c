from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.ensemble.batched import alike, batched
from raytune_rl.ensemble.links import LINKS, checked_weights, finished, joined, read_as, task_of
from raytune_rl.ensemble.model import EnsembleModel
from raytune_rl.population.predictions import _LIKE, _LOSSES, judged_as
from tests.ensemble.members import inputs


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 3, bias=False))


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))


def networks(make, count: int = 4) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [make() for _ in range(count)]
        for network in found:  # running statistics of their own
            network.train()(torch.randn(8, 1, 3, 4))
    return [network.eval() for network in found]


WEIGHTS = [0.4, 0.3, 0.2, 0.1]


@pytest.mark.parametrize("make", [linear, convolutional])
@pytest.mark.parametrize("rows", [1, 5])
def test_the_batched_path_is_the_loop(make, rows: int) -> None:
    members = networks(make)
    data = inputs(rows, 1, 3, 4)
    together, alone = batched(members)(data), torch.stack([member(data) for member in members])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    model = EnsembleModel(members, WEIGHTS, link="softmax", alike=True)
    loop = model(data)
    model.batched_up_to = 100.0
    torch.testing.assert_close(model(data), loop, rtol=1e-5, atol=1e-6)
    assert not model(data).requires_grad


@pytest.mark.parametrize("where", [0, 1, None])
@pytest.mark.parametrize("before", [True, False])
def test_the_batched_path_keeps_hooks(where: int | None, before: bool) -> None:
    members = networks(linear)
    for member in members:
        hooked = member if where is None else member[where]  # type: ignore[index]
        if before:
            hooked.register_forward_pre_hook(lambda module, given: (given[0] * 5,))
        else:
            hooked.register_forward_hook(lambda module, given, outputs: outputs * 5)
    data = inputs(3, 1, 3, 4)
    alone = torch.stack([member(data) for member in members])
    torch.testing.assert_close(batched(members)(data), alone, rtol=1e-5, atol=1e-6)


def test_tuning_keeps_the_answers_and_leaves_unlike_members_to_the_loop() -> None:
    members = networks(linear)
    data = inputs(300, 1, 3, 4)
    model = EnsembleModel(members, WEIGHTS, link="softmax", alike=True)
    before = model(data)
    model.tune(data[:1])
    torch.testing.assert_close(model(data), before, rtol=1e-5, atol=1e-6)
    unlike = EnsembleModel([*networks(convolutional, 2), *members[:2]], WEIGHTS, link="softmax")
    unlike.tune(data[:1])
    assert unlike.batched_up_to == 0.0 and unlike(data).shape == (300, 3)


def test_stacked_copies_follow_the_members() -> None:
    model = EnsembleModel(networks(linear), WEIGHTS, link="identity", alike=True)
    model.batched_up_to = 100.0
    data = inputs(2, 1, 3, 4)
    before = model(data)
    assert model.double()(data.double()).dtype == torch.float64
    model.float()
    other = EnsembleModel(networks(linear)[::-1], WEIGHTS, link="identity", alike=True)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(data), other(data))
    assert not torch.allclose(model(data), before)
    assert torch.equal(copy.deepcopy(model)(data), model(data))


def test_alike_networks_differ_in_nothing_but_their_numbers() -> None:
    data = inputs(4, 1, 3, 4)
    members = networks(linear)
    assert alike(members, data)
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3, bias=False))
    assert not alike([*members, other], data)  # the shapes are the same
    assert not alike([*members, networks(convolutional, 1)[0]], data)


@pytest.mark.parametrize("link", LINKS)
def test_outputs_are_averaged_as_predictions(link) -> None:
    outputs = inputs(4, 6, 3) * 3
    weights = torch.tensor(WEIGHTS)
    if link == "log":
        outputs = F.log_softmax(outputs, dim=2)
    found = joined(outputs, weights, link)
    opened = {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid, "log": torch.exp, "identity": lambda x: x}
    opened["probability"] = opened["identity"]
    expected = torch.einsum("k,knc->nc", weights, opened[link](outputs))
    torch.testing.assert_close(opened[link](found), expected, rtol=1e-4, atol=1e-6)
    assert (finished(found, Calibration(2.5, 0.1), link).argmax(1) == found.argmax(1)).all()


def test_certain_members_do_not_make_infinite_losses() -> None:
    outputs = torch.tensor([[[200.0, -200.0]], [[300.0, -300.0]]])
    for link in ("softmax", "sigmoid"):
        assert torch.isfinite(joined(outputs, torch.tensor([0.5, 0.5]), link)).all()


def test_the_task_is_told_by_loss_and_shapes() -> None:
    scores, classes = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    tokens = torch.zeros(4, 9, 5), torch.zeros(4, 5, dtype=torch.int64)
    assert task_of(nn.CrossEntropyLoss(), scores, classes, None) == ("classification", "softmax")
    assert task_of(nn.CrossEntropyLoss(), *tokens, None) == ("generation", "softmax")
    assert task_of(nn.NLLLoss(), scores, classes, None) == ("classification", "log")
    assert task_of(nn.BCEWithLogitsLoss(), scores[:, :1], scores[:, :1], None) == ("classification", "sigmoid")
    assert task_of(nn.HuberLoss(), scores, scores, None) == ("regression", "identity")
    assert task_of(nn.CrossEntropyLoss(), scores, classes, "matching") == ("matching", "identity")
    assert task_of(lambda a, b: a.sum(), scores, classes, None) is None
    assert task_of(lambda a, b: a.sum(), *tokens, "generation") == ("generation", "softmax")
    assert task_of(lambda a, b: a.sum(), tokens[0].mT, tokens[1], "generation") is None  # the vocabulary is last


FUNCTIONS = [
    (F.cross_entropy, nn.CrossEntropyLoss()),
    (F.nll_loss, nn.NLLLoss()),
    (F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss()),
    (F.binary_cross_entropy, nn.BCELoss()),
    (F.mse_loss, nn.MSELoss()),
    (F.l1_loss, nn.L1Loss()),
    (F.smooth_l1_loss, nn.SmoothL1Loss()),
    (F.huber_loss, nn.HuberLoss()),
]


@pytest.mark.parametrize(("function", "module"), FUNCTIONS)
def test_a_loss_is_known_as_a_module_and_as_a_function(function, module: nn.Module) -> None:
    by_class = module.__class__ in (nn.CrossEntropyLoss, nn.NLLLoss)
    targets = torch.zeros(4, dtype=torch.int64) if by_class else torch.zeros(4, 3)
    found = task_of(function, torch.zeros(4, 3), targets, None)
    assert found is not None and found == task_of(module, torch.zeros(4, 3), targets, None)


@pytest.mark.parametrize("loss", [*_LOSSES, *_LIKE])
def test_whatever_steers_a_population_makes_an_ensemble_in_the_end(loss) -> None:
    given = loss() if isinstance(loss, type) else loss
    targets = torch.zeros(4, dtype=torch.int64) if judged_as(given) == "cross_entropy" else torch.zeros(4, 3)
    assert task_of(given, torch.zeros(4, 3), targets, None) is not None


def test_only_probabilities_are_calibrated() -> None:
    loss = nn.CrossEntropyLoss()
    assert read_as(loss, "classification", "softmax") == read_as(loss, "generation", "softmax") == "softmax"
    assert read_as(nn.NLLLoss(), "classification", "log") == "log"
    assert read_as(loss, "matching", "identity") == "softmax"  # the loss makes probabilities of the scores
    assert read_as(lambda a, b: a.sum(), "matching", "identity") is None
    assert read_as(nn.MSELoss(), "regression", "identity") is None


def test_weights_from_a_file_are_checked() -> None:
    assert checked_weights([0.5, 0.5], 2) == [0.5, 0.5]
    for wrong in ([0.5], [0.7, 0.7], [1.5, -0.5], None, ["a", "b"]):
        with pytest.raises(ValueError, match="positive and sum to 1"):
            checked_weights(wrong, 2)
