from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raytune_rl.population.export import load
from raytune_rl.population.torch_member import TorchMember
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.tasks.digits import digits, digits_network
from tests.population.models import build

DIGITS = TorchTask(digits_network, digits, loss=nn.CrossEntropyLoss())


@pytest.fixture
def exported(tmp_path: Path) -> tuple[TorchMember, Path]:
    member = build(DIGITS, {"lr": 1e-2, "dropout": 0.3, "width": 12})
    member.train(5)
    member.apply({"dropout": 0.1})
    DIGITS.export(member.get_state(), tmp_path / "best")
    return member, tmp_path / "best"


def predictions(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = network.eval()(torch.tensor(digits()[2][0]))
    return answer


def edit(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))


def test_the_loaded_model_predicts_the_same(exported: tuple[TorchMember, Path]) -> None:
    member, directory = exported
    network = load(directory)
    assert not network.training
    assert torch.equal(predictions(network), predictions(member.controls.network))
    assert torch.equal(predictions(load(directory, network=digits_network)), predictions(network))
    assert torch.equal(predictions(load(directory, network=digits_network(width=12))), predictions(network))


def test_a_run_directory_will_do(exported: tuple[TorchMember, Path]) -> None:
    _, directory = exported
    assert torch.equal(predictions(load(directory.parent)), predictions(load(directory)))


def test_the_configuration_says_how_to_build_it(exported: tuple[TorchMember, Path]) -> None:
    config = json.loads((exported[1] / "config.json").read_text())
    assert config["schema_version"] == 1 and config["kind"] == "torch"
    assert config["network"] == "raytune_rl.tasks.digits:digits_network"
    assert config["arguments"] == {"dropout": 0.1, "width": 12}
    assert config["hyperparameters"] == {"lr": 1e-2, "dropout": 0.1, "width": 12}
    assert math.isfinite(config["metrics"]["validation_loss"])
    assert sorted(path.name for path in exported[1].iterdir()) == ["config.json", "model.safetensors"]


def test_a_diverged_model_is_still_valid_json(tmp_path: Path) -> None:
    member = build(DIGITS, {"lr": 1e30}, optimizer="sgd")
    member.train(20)
    DIGITS.export(member.get_state(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["metrics"]["train_loss"] is None


def test_a_factory_without_a_name_must_be_passed(tmp_path: Path) -> None:
    def local(width: int = 4) -> nn.Module:
        return digits_network(width=width)

    task = TorchTask(local, digits, loss=nn.CrossEntropyLoss())
    task.export(build(task, {"lr": 0.1, "width": 6}).get_state(), tmp_path)
    with pytest.raises(ValueError, match=r"no importable name; pass it: raytune_rl.load\(.*network=...\)"):
        load(tmp_path)
    assert isinstance(load(tmp_path, network=local), nn.Sequential)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "no_such_package.models:network"}, r"cannot be imported here .* pass it: raytune_rl.load"),
        ({"network": "raytune_rl.tasks.digits:missing"}, "cannot be imported here"),
        ({"network": "os:system", "arguments": {"command": "touch {0}/pwned"}}, "not annotated to return"),
        ({"network": "subprocess:Popen", "arguments": {"args": "true"}}, "not annotated to return"),
        ({"schema_version": 99}, "schema version 99; this raytune_rl reads up to 1"),
        ({"kind": "trainable"}, "does not describe a torch model"),
        ({"arguments": {"depth": 3}}, "cannot be called with"),
        ({"arguments": {"width": 13}}, "do not fit the network"),
    ],
)
def test_what_cannot_be_loaded_is_explained(
    exported: tuple[TorchMember, Path], changes: dict[str, Any], message: str
) -> None:
    edit(exported[1], **changes)
    with pytest.raises(ValueError, match=message):
        load(exported[1])


def test_missing_and_broken_files_are_explained(exported: tuple[TorchMember, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no directory"):
        load(tmp_path / "nowhere")
    (exported[1] / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read"):
        load(exported[1])


def test_a_network_that_lives_beside_an_import_of_ray_is_told_where_to_move(
    exported: tuple[TorchMember, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "with_ray_beside_it.py").write_text("from ray import tune\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    edit(exported[1], network="with_ray_beside_it:network")
    with pytest.raises(ValueError, match=r"with_ray_beside_it, .* imports Ray, which is not .*network=\.\.\."):
        load(exported[1])
