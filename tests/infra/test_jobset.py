"""The JobSet is one to Kubernetes: its jobs by Kubernetes' own schema, the rest by JobSet's CRD."""

import copy
import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from infra.verbs import jobset as verb
from schemas import UsageError

MODULE = "sigs.k8s.io/jobset@v0.10.1"
FLAGS = (
    "--topology v5p:8x8x8 --image eu.gcr.io/p/unisim:1 --data gs://b/table --out gs://runs/base/1"
    " --config base --model-axis 2"
).split()


def _manifest(capsys, *flags: str) -> dict:
    assert verb.main([*FLAGS, *flags]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def _check_job(manifest: dict) -> None:
    """Kubernetes' schema of a Job, strict: unknown fields are errors."""
    [job] = manifest["spec"]["replicatedJobs"]
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
    kubernetes_validate.validate(whole | {"spec": job["template"]["spec"]}, "1.31", strict=True)


def test_a_slice_gets_a_pod_per_host_that_stages_and_trains(capsys):
    manifest = _manifest(capsys)
    _check_job(manifest)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 128 and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "8x8x8",
    }
    [train], [stage] = pod["containers"], pod["initContainers"]
    assert train["resources"]["limits"] == {"google.com/tpu": 4}
    assert stage["command"][:4] == ["unisim", "stage", "--data", "gs://b/table"]
    assert stage["command"][-2:] == ["--tier", "24x40"]
    assert train["command"][:6] == ["unisim", "train", "--config", "base", "--model-axis", "2"]
    assert train["command"][-3:] == ["--distributed", "--stopped-code", "75"]
    assert pod["volumes"][1]["csi"]["volumeAttributes"]["bucketName"] == "runs"
    assert "/runs/base/1" in train["command"] and pod["terminationGracePeriodSeconds"] == 300
    finer = _manifest(capsys, "--config", "sr_48x80", "--tier", "48x80")
    assert "48x80" in str(finer["spec"]["replicatedJobs"][0]["template"]["spec"]["template"])


@pytest.mark.parametrize(
    ("topology", "hosts"), [("v5e:2x2", 1), ("v6e:16x16", 64), ("v4:2x2x4", 4), ("v3:16x32", 128)]
)
def test_every_generation_has_its_hosts(capsys, topology, hosts):
    manifest = _manifest(capsys, "--topology", topology)
    _check_job(manifest)
    assert manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] == hosts


def test_the_schema_refuses_what_is_damaged(capsys):
    manifest = _manifest(capsys)
    for damage in ({"restartPolicy": 3}, {"nodeSelectors": {}}, {"containers": [{}]}):
        broken = copy.deepcopy(manifest)
        broken["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"] |= damage
        with pytest.raises(kubernetes_validate.ValidationError):
            _check_job(broken)


def _crd(folder: Path) -> dict:
    """JobSet's own schema, of the release that its Go module holds."""
    if shutil.which("go") is None:
        pytest.skip("go is not there to fetch JobSet's schema")
    found = subprocess.run(
        ["go", "mod", "download", "-json", MODULE], cwd=folder, capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip(f"{MODULE} cannot be fetched: {found.stdout.strip()[-200:]}")
    base = Path(json.loads(found.stdout)["Dir"]) / "config" / "components" / "crd" / "bases"
    crd = yaml.safe_load((base / "jobset.x-k8s.io_jobsets.yaml").read_text())
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _closed(schema: object) -> object:
    """As the API server in strict mode: fields that are not known are refused."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    return closed


def test_it_is_a_jobset_by_its_own_schema(capsys, tmp_path):
    schema = _closed(_crd(tmp_path))
    assert isinstance(schema, dict)
    schema["properties"]["metadata"] = {"type": "object"}
    manifest = _manifest(capsys)
    jsonschema.Draft7Validator(schema).validate(manifest)
    for path, value in (("failurePolicy", {"maxRestart": 3}), ("replicatedJobs", [{"name": "x"}])):
        broken = copy.deepcopy(manifest)
        broken["spec"][path] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft7Validator(schema).validate(broken)


def test_mistakes_are_refused(capsys):
    for flags, said in (
        (("--topology", "v5p:8x8"), "does not exist; there are v5p:2x2x1"),
        (("--topology", "v2:4x4"), "GKE has no such slice; it has those of v3, v4"),
        (("--out", "/local"), "wanted gs://BUCKET/PATH"),
        (("--out", "gs://b/../x"), "wanted gs://BUCKET/PATH"),
        (("--name", "Bad_Name"), "--name Bad_Name: wanted up to 40 of a-z"),
        (("--config", "bse"), "no config 'bse', did you mean 'base'"),
    ):
        with pytest.raises(UsageError, match=said):
            verb.main([*FLAGS, *flags])
