from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.population.calibrating import calibrate, calibrated
from tests.combining.predictions import applied

CALIBRATION = Calibration(2.0, 0.1)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3), (4,)])
def test_its_probabilities_are_those_of_the_calibration(shape: tuple[int, ...]) -> None:
    outputs = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = 1 if len(shape) > 1 else 0
    found = calibrated(outputs, CALIBRATION, binary=False).softmax(dim=classes)
    wanted = applied(CALIBRATION, outputs.softmax(dim=classes).movedim(classes, -1).numpy())
    np.testing.assert_allclose(found.movedim(classes, -1).numpy(), wanted, rtol=1e-9)


def test_logits_are_questions_of_their_own() -> None:
    logits = torch.tensor([[-40.0, -2.0, 0.0], [1.5, 7.0, 40.0]], dtype=torch.float64)
    yes = torch.sigmoid(logits / 2.0) * 0.9 + 0.05
    torch.testing.assert_close(torch.sigmoid(calibrated(logits, CALIBRATION, binary=True)), yes)


def test_close_to_one_digits_are_kept() -> None:
    logits = torch.tensor([-60.0, 60.0])  # in float32, where 1 - 1e-26 is 1
    found = calibrated(logits, Calibration(1.0, 1e-4), binary=True)
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0]) * float(np.log(1 / 5e-5 - 1)))


@pytest.mark.parametrize("binary", [False, True])
def test_a_network_stays_what_it_was(binary: bool) -> None:
    network = nn.Linear(3, 2)
    inputs, before = torch.randn(5, 3), {name: value.clone() for name, value in network.state_dict().items()}
    plain = network(inputs)
    assert calibrate(network, Calibration(), binary=binary) is network and torch.equal(network(inputs), plain)
    assert calibrate(network, CALIBRATION, binary=binary) is network
    torch.testing.assert_close(network(inputs), calibrated(plain, CALIBRATION, binary=binary))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
