"""Dataflow without Google: the flags, the container, and the job graph that would be submitted."""

import contextlib
import dataclasses
import json
import re
import typing
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.pipeline import PipelineVisitor
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms.core import GroupByKey
from apache_beam.typehints import typehints

from pipelines import prepare
from pipelines.job import Job
from pipelines.plan import Plan
from pipelines.receipt import Receipt
from pipelines.text import check_directory
from pipelines.write import ShardTask
from tests.command import ROOT, unisim
from tests.conftest import BRIDGE
from tests.infra import dataflow_service, gcs_server
from tests.samples import sample
from tests.terminal import Terminal, moves

GIVEN = ["--project=a-project", "--region=us-central1", "--sdk_container_image=example/unisim:1"]
PATIENCE = 240.0


def flags_of(text: str) -> dict[str, str]:
    found = (line[2:].partition("=") for line in text.splitlines() if line.startswith("--"))
    return {name: value for name, _, value in found}


def test_a_dry_run_prints_the_plan_and_every_flag(tmp_path):
    source = ["--source", f"bridge={sample(BRIDGE)}", "--out", tmp_path / "t", "--dry-run"]
    run = [
        "--runner",
        "DataflowRunner",
        *GIVEN,
        "--temp_location=gs://bucket/tmp",
        "--no_use_public_ips",
    ]
    out = unisim("prepare", *source, *run).stdout
    flags = flags_of(out)
    assert flags["runner"] == "DataflowRunner" and flags["region"] == "us-central1"
    assert flags["number_of_worker_harness_threads"] == "1", "a process takes a shard at a time"
    assert flags["sdk_location"] == "container"
    assert "75 records" in out and not (tmp_path / "t").exists()
    threads = unisim("prepare", *source, *run, "--number_of_worker_harness_threads=2").stdout
    assert flags_of(threads)["number_of_worker_harness_threads"] == "2"
    local = unisim("prepare", *source, "--workers", 2).stdout
    assert flags_of(local)["runner"] == "FnApiRunner"


def test_what_only_the_user_can_know_is_asked_for_in_one_line(tmp_path):
    source = ["--source", f"bridge={sample(BRIDGE)}", "--out", "gs://bucket/t", "--dry-run"]
    said = unisim("prepare", *source, "--runner", "DataflowRunner", "--project=p", code=2).stderr
    (line,) = (x for x in said.splitlines() if "DataflowRunner" in x)
    assert "--region, --temp_location=gs://…, --sdk_container_image missing" in line


def instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text))
    words = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [(name, rest) for name, rest in words]


def test_the_container_holds_beams_version_and_what_is_locked_and_runs_as_nobody_special():
    steps = instructions((ROOT / "infra/dataflow/Containerfile").read_text())
    text = "\n".join(f"{name} {rest}" for name, rest in steps)
    lock = (ROOT / "requirements.lock").read_text()
    (version,) = re.findall(r"(?m)^apache-beam==(\S+)", lock)
    assert f"_sdk:{version} AS beam" in text, "the boot program is of the locked Beam"
    assert "--require-hashes --requirement requirements.lock" in text
    copied = {rest.split()[0] for name, rest in steps if name == "COPY"}
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied and all((ROOT / c).exists() for c in copied if "--" not in c)
    user = next(rest for name, rest in steps[::-1] if name == "USER")
    assert int(user) > 0 and steps[-1] == ("ENTRYPOINT", '["/opt/apache/beam/boot"]')


def job_of(tmp_path: Path, out: str) -> Job:
    """A job whose plan is written."""
    unisim("plan", "--source", f"bridge={sample(BRIDGE)}", "--out", tmp_path / "t")
    return Job(out=out, t5=None, encoder=check_directory(None), error_budget=0.01)


def fields(kind: typing.Any) -> set[typing.Any]:
    """Every type that a value of this type may hold, at any depth."""
    if isinstance(kind, typehints.TypeConstraint):
        inner = list(kind._inner_types())
    elif dataclasses.is_dataclass(kind):
        inner = list(typing.get_type_hints(kind).values())
    else:
        inner = list(typing.get_args(kind))
    return {kind}.union(*map(fields, inner))


def test_no_step_gives_out_frames(tmp_path):
    """What is shuffled, and what a step of ours gives out, has a known type without bytes or
    arrays in it."""
    pipeline = beam.Pipeline()
    prepare.build(pipeline, job_of(tmp_path, str(tmp_path / "t")))
    shuffled: dict[str, typing.Any] = {}
    given: dict[str, typing.Any] = {}

    class Visitor(PipelineVisitor):
        def visit_transform(self, transform_node):
            if isinstance(transform_node.transform, GroupByKey):
                (taken,) = transform_node.main_inputs.values()
                shuffled[transform_node.full_label] = taken.element_type
            for output in transform_node.outputs.values():
                given[transform_node.full_label] = output.element_type

    pipeline.visit(Visitor())
    assert len(shuffled) >= 4, "Reshuffle, Distinct, Gather and the count"
    ours = {name: given[name] for name in ("Shards", "Write", "Texts")}
    assert list(ours.values()) == [ShardTask, Receipt, str]
    for label, kind in (shuffled | ours).items():
        assert str(kind) != "Any", label
        held = fields(kind)
        assert not held & {bytes, bytearray, memoryview, np.ndarray}, f"{label}: {kind}"


def test_the_real_job_graph_is_built_and_is_small(tmp_path):
    """Dataflow's own client writes it to Cloud Storage, as for a template; none is started."""
    with gcs_server.for_test(tmp_path, "bucket") as server:
        server.upload(sample(BRIDGE), "bucket", "bridge")
        run = ["--runner", "DataflowRunner", *GIVEN, "--temp_location=gs://bucket/tmp"]
        run += ["--staging_location=gs://bucket/staging"]
        run += ["--template_location=gs://bucket/job.json"]
        source = ["--source", "bridge=gs://bucket/bridge", "--out", "gs://bucket/t"]
        said = unisim("prepare", *source, *run).stdout
        names = server.names("bucket")
        assert "job.json" in names
        assert "0 of 1 shards are done, the job ends elsewhere" in said
        graph = json.loads(server.get("bucket", "job.json"))
        (staged,) = (name for name in names if name.endswith("/pipeline.pb"))
        data = server.get("bucket", staged)
    assert graph["type"] == "JOB_TYPE_BATCH"
    (pool,) = graph["environment"]["workerPools"]
    images = {image["containerImage"] for image in pool["sdkHarnessContainerImages"]}
    assert images == {"example/unisim:1"}
    pipeline = beam_runner_api_pb2.Pipeline.FromString(data)
    labels = {t.unique_name for t in pipeline.components.transforms.values()}
    assert {"Shards", "Spread", "Write", "Embed/Encode", "Commit"} <= labels
    assert len(data) < 200_000, "the plan is read by a worker, not submitted"


def test_progress_is_by_the_clients_metrics(tmp_path):
    """Google's own client and Beam's result of a Dataflow job; the service is a stand-in."""
    source = ["--source", f"bridge={sample(BRIDGE)}", "--shard-mb", "0.3"]
    unisim("plan", *source, "--out", tmp_path / "plan")
    costs = Plan.load(str(tmp_path / "plan")).costs()
    total, first = sum(costs.values()), costs["bridge", 0]
    run = ["--runner", "DataflowRunner", *GIVEN, "--temp_location=gs://bucket/tmp", "--no_auth"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(gcs_server.for_test(tmp_path, "bucket"))
        service = stack.enter_context(dataflow_service.serving())
        run.append(f"--dataflow_endpoint={service.endpoint}")
        job = stack.enter_context(Terminal("prepare", *source, "--out", "gs://bucket/t", *run))
        job.wait_for(lambda job: "starting workers" in job.lines() and service.job, PATIENCE)
        service.attempted = {"cost": first // 2, "frames": 100, "shards": 0, "dead_letters": 2}
        service.committed = dict.fromkeys(service.attempted, 0)
        job.wait_for(Terminal.progress, PATIENCE)
        service.attempted |= {"cost": first, "shards": 1}
        job.wait_for(lambda job: job.progress()[-1].shards == 1, PATIENCE)
        # two bundles have made the same shard's half
        service.attempted |= {"cost": total + first // 2, "shards": len(costs)}
        service.committed |= {"cost": total, "shards": len(costs)}
        job.wait_for(lambda job: job.progress()[-1].percent == 100, PATIENCE)
        service.state = "JOB_STATE_DONE"
        job.end(PATIENCE)
    seen = job.progress()
    assert service.job["environment"]["experiments"], "a whole job was asked for"
    assert seen[0].shards == 0 and 0 < seen[0].percent < 100 and seen[0].frames_per_second
    assert all("  2 dead letters  " in line for line in job.lines() if "shards  " in line)
    moves(seen, len(costs))
