"""`jobset`: the manifest of a training run on a slice of TPUs in Google Kubernetes Engine.

A JobSet has one pod per host of the slice. When a pod ends in any other way than by finishing the
run, all start anew and go on from the last checkpoint; but for a misused command, which would only
be misused again. Node labels are those of "Plan TPUs in GKE" in its documentation, fields those of
the JobSet API v1alpha2 and of Kubernetes' batch/v1.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from schemas import UsageError
from trainer.train import chips

_CHIPS = 4  # of a host: all machine types that make slices of several hosts have as many
_ACCELERATORS = {
    "v3": "tpu-v3-slice",
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
_STOPPED, _MISUSED = 75, 2  # exit codes: saved on SIGTERM; refused
_STAGED, _RUNS = "/staged", "/runs"
_PORTS = {"tpu": 8471, "coordinator": 8476}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """What is run, and where.

    Attributes:
        name: of the JobSet.
        topology: the slice, "v5p:8x8x8".
        image: of the container that infra/tpu/Containerfile makes.
        data: the table, gs://….
        out: the run's folder, gs://BUCKET/PATH, mounted by gcsfuse.
        train: arguments of `unisim train` but for --data and --out.
        tiers: that are staged.
        grace: seconds from SIGTERM to SIGKILL, in which a checkpoint must be written.
        restarts: how often all begins anew before the run is given up.
        service_account: Kubernetes' name of who may read and write the buckets.
    """

    name: str
    topology: str
    image: str
    data: str
    out: str
    train: tuple[str, ...]
    tiers: tuple[str, ...]
    grace: int = 300
    restarts: int = 100
    service_account: str = "default"


def jobset(launch: Launch) -> dict[str, Any]:
    """The manifest, as JSON values.

    Raises:
        UsageError: if GKE has no such slice, or a name or a path is none.
    """
    hosts = _hosts(launch.topology)
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", launch.name):
        raise UsageError(f"--name {launch.name}: wanted up to 40 of a-z, 0-9 and -, a letter first")
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one pod less is no slice: all begin anew
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "train",
                        "operator": "In",
                        "values": [_MISUSED],
                    },
                }
            ]
        },
        "template": {
            "metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}},
            "spec": _pod(launch),
        },
    }
    misused = {
        "name": "misused",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": launch.name,
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "failurePolicy": {"maxRestarts": launch.restarts, "rules": [misused]},
            "replicatedJobs": [{"name": "train", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _hosts(topology: str) -> int:
    """How many machines a slice has. Raises UsageError if GKE has no such slice."""
    _, count = chips.parse(topology)
    generation = topology.partition(":")[0]
    if generation not in _ACCELERATORS or topology == "v3:2x2":
        known = ", ".join(_ACCELERATORS)
        raise UsageError(f"--topology {topology}: GKE has no such slice; it has those of {known}")
    return -(-count // _CHIPS)


def _pod(launch: Launch) -> dict[str, Any]:
    generation, _, shape = launch.topology.partition(":")
    bucket, folder = _bucket(launch.out)
    table = f"{_STAGED}/table"
    stage = ["unisim", "stage", "--data", launch.data, "--out", table]
    stage += [part for tier in launch.tiers for part in ("--tier", tier)]
    train = ["unisim", "train", *launch.train, "--data", table, "--out", f"{_RUNS}/{folder}"]
    train += ["--distributed", "--stopped-code", str(_STOPPED)]
    mounts = [{"name": "staged", "mountPath": _STAGED}, {"name": "runs", "mountPath": _RUNS}]
    fuse = {"bucketName": bucket, "mountOptions": "implicit-dirs"}
    return {
        "restartPolicy": "Never",
        "serviceAccountName": launch.service_account,
        "terminationGracePeriodSeconds": launch.grace,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": _ACCELERATORS[generation],
            "cloud.google.com/gke-tpu-topology": shape,
        },
        "initContainers": [
            {"name": "stage", "image": launch.image, "command": stage, "volumeMounts": mounts[:1]}
        ],
        "containers": [
            {
                "name": "train",
                "image": launch.image,
                "command": train,
                "ports": [{"name": name, "containerPort": port} for name, port in _PORTS.items()],
                "resources": {kind: {"google.com/tpu": _CHIPS} for kind in ("requests", "limits")},
                "volumeMounts": mounts,
            }
        ],
        "volumes": [
            {"name": "staged", "emptyDir": {}},
            {
                "name": "runs",
                "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": fuse},
            },
        ],
    }


def _bucket(uri: str) -> tuple[str, str]:
    """gs://bucket/a/b -> (bucket, a/b)."""
    found = re.fullmatch(r"gs://([a-z0-9][-a-z0-9_.]+)/([^/].*?)/*", uri)
    if not found or ".." in found[2].split("/"):
        raise UsageError(f"--out {uri}: wanted gs://BUCKET/PATH, which the pods mount")
    return found[1], found[2]
