from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.ensemble.batched import Batched, alike
from raytune_rl.ensemble.links import LINKS, checked_weights, combined, read_as, task_of
from raytune_rl.ensemble.model import BATCHES, UNTRIED, EnsembleModel
from raytune_rl.population.calibrating import calibrated
from raytune_rl.population.predictions import _LOSSES, _RELATED, judged_as
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
    together, alone = Batched(nn.ModuleList(members)).run(data), torch.stack([member(data) for member in members])
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
    torch.testing.assert_close(Batched(nn.ModuleList(members)).run(data), alone, rtol=1e-5, atol=1e-6)


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


def batching(members: list[nn.Module]) -> EnsembleModel:
    """An ensemble that has been called as one program."""
    model = EnsembleModel(members, [1 / len(members)] * len(members), link="identity", alike=True)
    model.batched_up_to = 100.0
    model(inputs(2, 1, 3, 4))
    assert model._batched is not None
    return model


def assert_no_stale_answers(model: EnsembleModel) -> None:
    data = inputs(2, 1, 3, 4)
    expected = torch.stack([member(data) for member in model.members]).mean(0)
    torch.testing.assert_close(model(data), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def edited(model: EnsembleModel) -> None:
    model.members[0][1].weight.add_(1.0)  # type: ignore[index, operator]


def loaded(model: EnsembleModel) -> None:
    model.load_state_dict(batching(networks(linear, 9)[5:]).state_dict())


def one_loaded(model: EnsembleModel, assign: bool = False) -> None:
    model.members[0].load_state_dict(model.members[1].state_dict(), assign=assign)


def one_assigned(model: EnsembleModel) -> None:
    one_loaded(model, assign=True)


def exchanged(model: EnsembleModel) -> None:
    model.members[0] = networks(linear, 9)[-1]


def part_exchanged(model: EnsembleModel) -> None:
    model.members[0][2] = nn.ReLU()  # type: ignore[operator]


def trained(model: EnsembleModel) -> None:
    model.train().requires_grad_(True)
    model(inputs(8, 1, 3, 4)).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    model.eval()


def train_mode_of_one_part(model: EnsembleModel) -> None:
    torch.nn.init.zeros_(model.members[0][1].weight)  # type: ignore[index, arg-type]
    for member in model.members:
        member[3].p = 1.0  # type: ignore[index]
        member[3].train()  # type: ignore[index]


@pytest.mark.parametrize(
    "change",
    [edited, loaded, one_loaded, one_assigned, exchanged, part_exchanged, trained, train_mode_of_one_part],
)
def test_stacked_copies_follow_the_members(change) -> None:
    model = batching(networks(linear))
    before = model(inputs(2, 1, 3, 4))
    change(model)
    assert_no_stale_answers(model)
    assert not torch.allclose(model(inputs(2, 1, 3, 4)), before)
    copied = copy.deepcopy(model)
    change(copied)
    assert_no_stale_answers(copied)


def test_running_statistics_are_numbers_like_others() -> None:
    model = batching(networks(convolutional))
    model.members[0][1].running_mean.add_(1.0)  # type: ignore[index, union-attr, operator]
    assert_no_stale_answers(model)


def test_members_that_move_leave_their_copies_behind() -> None:
    model = batching(networks(linear))
    assert model.double()(inputs(2, 1, 3, 4).double()).dtype == torch.float64
    model.float()
    assert_no_stale_answers(model)


def test_what_was_timed_on_one_device_says_nothing_of_another() -> None:
    model = EnsembleModel(networks(linear), WEIGHTS, link="identity", alike=True)
    model.to("meta")
    assert model.batched_up_to == 0.0  # nobody has tried whether they can be batched
    model = EnsembleModel(networks(linear), WEIGHTS, link="identity", alike=True)
    model.tune(inputs(1, 1, 3, 4))
    tuned = model.batched_up_to
    assert model.to("meta").batched_up_to == UNTRIED
    assert model.to_empty(device="cpu").batched_up_to == tuned


def test_gradients_reach_members_and_inputs_in_eval_mode() -> None:
    model = batching(networks(linear))
    data = inputs(2, 1, 3, 4).requires_grad_()
    model(data).sum().backward()
    assert data.grad is not None
    model.requires_grad_(True)
    model.calibration, model.link = Calibration(1.5, 0.1), "softmax"
    model(inputs(2, 1, 3, 4))[:, 0].sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_an_ensemble_that_was_batched_can_be_pickled() -> None:
    model = batching(networks(convolutional))
    expected = model(inputs(2, 1, 3, 4))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        torch.testing.assert_close(again(inputs(2, 1, 3, 4)), expected)


def test_more_rows_than_were_timed_go_through_the_loop() -> None:
    model = EnsembleModel(networks(linear), WEIGHTS, link="identity", alike=True)
    model.tune(inputs(1, 1, 3, 4))
    assert model.batched_up_to <= max(BATCHES)


def test_networks_that_cannot_be_copied_are_called_one_by_one() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(12, 7)), nn.Tanh(), nn.Linear(7, 3))

    members = networks(normed)
    assert not alike(members, inputs(4, 1, 3, 4))  # copying them raises a RuntimeError
    model = EnsembleModel(members, WEIGHTS, link="identity", alike=True)
    model.tune(inputs(1, 1, 3, 4))
    assert model.batched_up_to == 0.0 and model(inputs(2, 1, 3, 4)).shape == (2, 3)


def test_operators_without_a_batching_rule_are_called_one_by_one() -> None:
    """``vmap`` would go through the examples one by one, and print a warning."""

    def attention() -> nn.Module:  # in eval mode a single operator
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(20, 3))

    members = [attention().eval() for _ in WEIGHTS]
    assert alike(members, inputs(4, 5, 4))
    model = EnsembleModel(members, WEIGHTS, link="identity", alike=True)
    model.tune(inputs(1, 5, 4))
    assert model._batched is None and model.batched_up_to == 0.0 and model(inputs(2, 5, 4)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 5, 4)])
def test_linear_layers_take_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng():
        members = [nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3, bias=False)) for _ in range(3)]
    data = inputs(6, *shape)
    found = Batched(nn.ModuleList(members)).run(data)
    torch.testing.assert_close(found, torch.stack([member(data) for member in members]), rtol=1e-5, atol=1e-6)
    assert torch.equal(data, inputs(6, *shape))


def test_alike_networks_differ_in_nothing_but_their_numbers() -> None:
    data = inputs(4, 1, 3, 4)
    members = networks(linear)
    assert alike(members, data)
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3, bias=False))
    assert not alike([*members, other], data)  # the shapes are the same
    assert not alike([*members, networks(convolutional, 1)[0]], data)


@pytest.mark.parametrize(
    "calibration", [Calibration(), Calibration(1.7), Calibration(1.0, 0.1), Calibration(0.6, 0.05)]
)
@pytest.mark.parametrize("link", LINKS)
def test_outputs_are_averaged_as_predictions_and_calibrated(link, calibration: Calibration) -> None:
    outputs = inputs(4, 6, 3) * 3
    shares = torch.tensor([WEIGHTS])
    if link == "log":
        outputs = F.log_softmax(outputs, dim=2)
    found = combined(outputs, shares, link)
    opened = {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid, "log": torch.exp, "identity": lambda x: x}
    opened["probability"] = opened["identity"]
    expected = torch.einsum("k,knc->nc", shares[0], opened[link](outputs))
    torch.testing.assert_close(opened[link](found), expected, rtol=1e-4, atol=1e-6)
    if link != "probability":  # which is never calibrated
        reference = calibrated(found, calibration, binary=link == "sigmoid")
        torch.testing.assert_close(combined(outputs, shares, link, calibration), reference, rtol=1e-4, atol=1e-5)


def test_certain_members_do_not_make_infinite_losses() -> None:
    outputs = torch.tensor([[[200.0, -200.0]], [[300.0, -300.0]]])
    for link in ("softmax", "sigmoid"):
        for calibration in (Calibration(), Calibration(0.5), Calibration(2.0)):
            assert torch.isfinite(combined(outputs, torch.tensor([[0.5, 0.5]]), link, calibration)).all()


def test_token_scores_are_averaged_along_their_vocabulary() -> None:
    outputs, calibration = inputs(4, 6, 5, 3), Calibration(1.5, 0.1)
    mean = torch.einsum("k,knct->nct", torch.tensor(WEIGHTS), outputs.softmax(2))
    found = combined(outputs, torch.tensor([WEIGHTS]), "softmax", calibration)
    torch.testing.assert_close(found, calibrated(mean.log(), calibration, binary=False), rtol=1e-4, atol=1e-5)


def test_an_empty_batch_has_no_rows() -> None:
    model = batching(networks(linear))
    assert model(inputs(0, 1, 3, 4)).shape == (0, 3)


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


@pytest.mark.parametrize("loss", [*_LOSSES, *_RELATED])
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
