"""KubeRay: a ``RayJob`` manifest, and a ``ConfigMap`` with the experiment's files."""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml

from raytune_rl.cli.commands import DONE, FAILED
from raytune_rl.errors import BadInput
from raytune_rl.submit.job import Job, tool

CODE, RESULTS = "/experiment", "/results"
MAX_BYTES = 900_000
"""Largest size of the files: a ConfigMap can hold one MiB, including its YAML."""


class _Readable(yaml.SafeDumper):
    """Writes the experiment's files line by line, not as single escaped strings."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeRay:
    """A Kubernetes cluster with the KubeRay operator.

    Args:
        image: a container image with Ray and raytune_rl.
        namespace: ``None`` = kubectl's own.
        nodes: number of worker pods.
        cpus, gpus, memory: per worker pod; memory as Kubernetes writes it (``16Gi``).
        python: the interpreter in the image.
        token_secret: the name of a ``Secret`` whose key ``auth_token`` holds the cluster's token; ``None`` = KubeRay
            makes one. No token is ever part of the manifest.
        volume_claim: a ``PersistentVolumeClaim`` for run directories; without it the storage path must be a URI.
    """

    image: str
    namespace: str | None = None
    nodes: int = 1
    cpus: int = 4
    gpus: int = 0
    memory: str = "16Gi"
    python: str = "python"
    token_secret: str | None = None
    volume_claim: str | None = None

    def preview(self, job: Job) -> str:
        return yaml.dump_all(self.manifests(job), Dumper=_Readable, sort_keys=False, width=120)

    def submit(self, job: Job) -> int:
        manifest = self.preview(job)
        completed = subprocess.run(
            [tool("kubectl", "it submits RayJobs to Kubernetes"), "apply", "-f", "-"],
            input=manifest,
            text=True,
        )
        if completed.returncode == 0:
            print(f"run directory {self._out(job)}; follow it with: kubectl get rayjob {job.ident} --watch")
        return DONE if completed.returncode == 0 else FAILED

    def manifests(self, job: Job) -> list[dict[str, Any]]:
        """The ``ConfigMap`` and the ``RayJob``."""
        command = [self.python, "-m", "raytune_rl.run", job.file.name, "--address", "auto", "--out", self._out(job)]
        cluster: dict[str, Any] = {
            "rayVersion": importlib.metadata.version("ray"),
            "authOptions": {"mode": "token", **({"secretName": self.token_secret} if self.token_secret else {})},
            "headGroupSpec": {
                # KubeRay's operator and submitter use the dashboard from other pods; the token protects it.
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                "template": self._pod("head", {"cpu": "2", "memory": "8Gi"}),
            },
            "workerGroupSpecs": [
                {
                    "groupName": "gpu-workers" if self.gpus else "workers",
                    "replicas": self.nodes,
                    "minReplicas": self.nodes,
                    "maxReplicas": self.nodes,
                    "rayStartParams": {},
                    "template": self._pod("worker", self._resources()),
                }
            ],
        }
        self._add_volumes(cluster, job)
        spec = {
            "entrypoint": f"bash -c {shlex.quote(f'cd {CODE} && ' + shlex.join([*command, *job.options]))}",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": cluster,
        }
        return [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": self._metadata(job),
                "data": _files(job),
            },
            {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": self._metadata(job), "spec": spec},
        ]

    def _out(self, job: Job) -> str:
        if job.remote:
            return job.directory
        if self.volume_claim is None:
            raise BadInput(
                f"storage_path is {job.out or job.storage!r}, and what a pod writes on its own disk is lost with it; "
                "give a URI such as s3://bucket/results, or --volume-claim NAME."
            )
        if job.out is None:
            return f"{RESULTS}/{job.name}/{job.ident}"
        if not job.out.startswith(f"{RESULTS}/"):
            raise BadInput(f"--out is {job.out!r}; the volume is mounted at {RESULTS}, so it must be below that.")
        return job.out

    def _metadata(self, job: Job) -> dict[str, Any]:
        return {"name": job.ident, **({"namespace": self.namespace} if self.namespace else {})}

    def _resources(self) -> dict[str, str]:
        gpus = {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        return {"cpu": str(self.cpus), "memory": self.memory, **gpus}

    def _pod(self, role: str, resources: dict[str, str]) -> dict[str, Any]:
        container = {
            "name": f"ray-{role}",
            "image": self.image,
            "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
            "resources": {"requests": resources, "limits": dict(resources)},
        }
        return {"spec": {"containers": [container]}}

    def _add_volumes(self, cluster: dict[str, Any], job: Job) -> None:
        volumes: list[dict[str, Any]] = [{"name": "experiment", "configMap": {"name": job.ident}}]
        mounts: list[dict[str, Any]] = [{"name": "experiment", "mountPath": CODE}]
        if self.volume_claim is not None:
            volumes.append({"name": "results", "persistentVolumeClaim": {"claimName": self.volume_claim}})
            mounts.append({"name": "results", "mountPath": RESULTS})
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            pod["volumes"] = deepcopy(volumes)  # YAML would write shared lists as aliases
            pod["containers"][0]["volumeMounts"] = deepcopy(mounts)


def _files(job: Job) -> dict[str, str]:
    """The Python files in the experiment's folder, by name."""
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(job.file.parent.glob("*.py"))}
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_BYTES:
        raise BadInput(
            f"{job.file.parent} holds {size / 1e6:.1f} MB of Python files, and a ConfigMap takes 1 MB; "
            "put the code into the image, or the experiment into a folder of its own."
        )
    return files
