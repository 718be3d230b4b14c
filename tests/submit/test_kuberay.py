from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from raytune_rl.errors import BadInput
from raytune_rl.submit import kuberay
from raytune_rl.submit.job import Job
from raytune_rl.submit.kuberay import KubeRay

SCHEMA = json.loads(Path(__file__).with_name("data").joinpath("rayjob.schema.json").read_text())
FILE = Path(__file__).with_name("experiment.py")


def job(**changes: Any) -> Job:
    return Job(**{"file": FILE, "name": "small", "ident": "small-1", "storage": "s3://bucket/results", **changes})


@pytest.mark.parametrize(
    "launcher",
    [
        KubeRay(image="me/raytune_rl:1"),
        KubeRay(image="me/raytune_rl:1", namespace="lab", nodes=3, gpus=2, token_secret="ray", volume_claim="disk"),
    ],
)
def test_the_manifest_fits_the_resource_definition(launcher: KubeRay) -> None:
    files, rayjob = yaml.safe_load_all(launcher.preview(job()))
    jsonschema.Draft202012Validator(SCHEMA).validate(rayjob)
    assert files["kind"] == "ConfigMap" and "experiment.py" in files["data"]
    lines = files["data"]["experiment.py"].splitlines()
    assert len(lines) > 3 and all(f"    {line}".rstrip() in launcher.preview(job()).splitlines() for line in lines)
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"


def test_the_schema_refuses_what_kuberay_does_not_know() -> None:
    _, rayjob = KubeRay(image="x").manifests(job())
    rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["gpus"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(rayjob)


def test_workers_get_gpus_and_the_head_none() -> None:
    _, rayjob = KubeRay(image="x", nodes=2, gpus=4).manifests(job())
    cluster = rayjob["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == 2
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert "nvidia.com/gpu" not in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_run_goes_where_it_outlives_the_pods() -> None:
    _, rayjob = KubeRay(image="x", volume_claim="disk").manifests(job(storage="results"))
    _, _, command = shlex.split(rayjob["spec"]["entrypoint"])
    assert command.startswith("cd /experiment && python -m raytune_rl.run experiment.py")
    assert "--out /results/small/small-1" in command
    with pytest.raises(BadInput, match="--volume-claim"):
        KubeRay(image="x").manifests(job(storage="results"))


def test_too_much_code_for_a_config_map_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kuberay, "MAX_BYTES", 100)
    with pytest.raises(BadInput, match="a ConfigMap takes 1 MB"):
        KubeRay(image="x").manifests(job())
