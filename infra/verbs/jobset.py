"""`unisim jobset`: the manifest of a training run on a slice of TPUs in GKE."""

from __future__ import annotations

import dataclasses
import json
import sys

DESCRIPTION = """Prints the JobSet that trains on a slice of TPUs in Google Kubernetes Engine.

One pod per host stages the tiers that the config needs from the bucket to its disk, then trains;
checkpoints go to --out through gcsfuse. Preemptions, maintenance and crashes make all pods start
anew and go on from the last checkpoint. What this command does not know goes to `unisim train`.

examples:
  unisim jobset --topology v5p:8x8x8 --image IMAGE --data gs://b/table --out gs://b/runs/base \\
      --config base --model-axis 2 | kubectl apply -f -
  unisim preflight --config base --topology v5p:8x8x8     tells first whether it fits, and its mesh
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobsetFlags:
    """Where it runs."""

    topology: str
    """The slice: GENERATION:SHAPE in chips, such as v5p:8x8x8 or v6e:16x16."""

    image: str
    """The container's image, made from infra/tpu/Containerfile."""

    data: str
    """The prepared table, gs://…."""

    out: str
    """The run's folder, gs://BUCKET/PATH."""

    name: str = "unisim"
    """The JobSet's name."""

    grace: int = 300
    """Seconds between SIGTERM and SIGKILL, in which a checkpoint must be written."""

    restarts: int = 100
    """How often all pods start anew before the run is given up."""

    service_account: str = "default"
    """Kubernetes' service account; it must be allowed to read and write the buckets."""


def main(argv: list[str]) -> int:
    """Runs the verb. Raises UsageError for what cannot be done."""
    import tyro

    flags, train = tyro.cli(
        JobsetFlags,
        prog="unisim jobset",
        description=DESCRIPTION,
        args=argv,
        return_unknown_args=True,
    )
    import yaml

    from infra.tpu.jobset import Launch, jobset
    from infra.verbs._config import config_name
    from trainer import configs

    config = configs.get(config_name(train))
    tier = train[train.index("--tier") + 1] if "--tier" in train[:-1] else config.tier
    launch = Launch(train=tuple(train), tiers=(tier,), **dataclasses.asdict(flags))
    # without the marks by which YAML says that two parts are the same
    plain = json.loads(json.dumps(jobset(launch)))
    yaml.safe_dump(plain, sys.stdout, sort_keys=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
