"""A training step compiled for TPUs that are not there, and what is refused before that."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from infra.verbs import preflight as verb
from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer import configs
from trainer.train import chips
from trainer.train.preflight import meshes
from trainer.train.report import Report, growth

GIB = 1 << 30
REPORT = Report(
    config="tiny",
    topology="v5e:2x2",
    devices=4,
    data=4,
    model=1,
    batch_size=4,
    parameters=1_000_000,
    memory=16 * GIB,
    peak=2 * GIB,
    arguments=1 * GIB,
    temporaries=1 * GIB,
    flops=2e12,
    moved=5e9,
    exchanged=1e9,
    collectives={"all-gather": {"count": 3, "bytes": 1e9}},
    compute=0.5,
    hbm=0.25,
    links=0.125,
    efficiency=0.4,
    effort="least",
    compiled=1.0,
)


def test_a_report_follows_from_its_figures():
    assert REPORT.fits and REPORT.binds == "compute" and REPORT.seconds == 0.5
    assert REPORT.days == pytest.approx(0.5 / 0.4 * 1e6 / 86400)
    full = dataclasses.replace(REPORT, peak=17 * GIB)
    assert not full.fits and full.binds == "memory"
    assert "fits; compute binds" in str(REPORT) and "does not fit; memory binds" in str(full)
    assert "all-gather 3 x, 1 GB" in str(REPORT)
    assert json.loads(json.dumps(REPORT.to_dict()))["fits"] is True


def test_growth_is_named_and_only_beyond_the_threshold():
    before = REPORT.to_dict()
    assert growth(REPORT, before, 0.0) == []
    more = dataclasses.replace(REPORT, flops=2.2e12, temporaries=int(1.04 * GIB))
    assert growth(more, before, 0.05) == ["flops 2e+12 -> 2.2e+12 (+10.0%)"]
    assert len(growth(more, before, 0.01)) == 2
    with pytest.raises(UsageError, match="topology is 'v5e:2x2', this one's is 'v3:2x2'"):
        growth(dataclasses.replace(REPORT, topology="v3:2x2"), before, 0.05)
    with pytest.raises(UsageError, match="no number 'flops'"):
        growth(REPORT, {k: v for k, v in before.items() if k != "flops"}, 0.05)


def test_meshes_divide_frames_devices_and_batch():
    config = tiny.config(batch_size=256, frames=16, tokens=16)
    assert meshes(config, 1024, "v3:16x32") == [4, 8, 16]
    assert meshes(config, 256, "v5e:16x16") == [1, 2, 4, 8, 16]
    assert meshes(config, 1024, "v3:16x32", {"data": 128, "model": 8}) == [8]
    split = dataclasses.replace(config, model_axis=16)
    assert meshes(split, 1024, "v3:16x32") == [16]
    with pytest.raises(UsageError, match=r"--batch-size 100 does not .*wanted a multiple of 64"):
        meshes(dataclasses.replace(config, batch_size=100), 1024, "v3:16x32")
    for mesh in ({"data": 512, "model": 2}, {"data": 64, "model": 32}, {"data": 2, "model": 4}):
        with pytest.raises(UsageError, match=r"wanted --mesh data=256,model=4 or data=128,model=8"):
            meshes(config, 1024, "v3:16x32", mesh)


def test_slices_that_do_not_exist_are_refused_with_those_that_do():
    with pytest.raises(UsageError, match=r"v3:3x3 does not exist; there are v3:2x2, .*v3:32x32"):
        chips.parse("v3:3x3")
    with pytest.raises(UsageError, match=r"no TPU 'v9', .*v3:16x32"):
        chips.parse("v9:2x2")
    assert chips.parse("v3:16x32")[1] == 512


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--topology", "v3:7x7"], r"v3:7x7 does not exist"),
        (["--topology", "v3:2x2", "--mesh", "data=3"], r"--mesh data=3: wanted data=N,model=N"),
        (["--topology", "v3:2x2", "--learning-rte", "1"], r"--learning-rte; .*'learning-rate'"),
        (["--topology", "v3:2x2", "--model.chanels", "8"], r"chanels; .*'model.channels'"),
        (["--topology", "v3:2x2", "--tier", "25x40"], r"25x40 cannot be halved"),
        (["--topology", "v3:2x2", "--tier", "abc"], r"'abc'.*wanted"),
        (["--topology", "v3:2x2", "--batch-size", "12", "--frames", "1"], r"a multiple of 8"),
        (["--topology", "v3:2x2", "--mesh", "data=2,model=2"], r"the 8 devices of .*wanted"),
        (["--topology", "v3:2x2", "--model-axis", "3"], r"data=2,model=3 does not divide"),
        (["--topology", "v3:2x2", "--tokens", "8"], r"--tokens 8 have no room"),
        (["--topology", "v3:2x2", "--efficiency", "0"], r"--efficiency is 0"),
        (["--topology", "v3:2x2", "--threshold", "-1"], r"--threshold is -1"),
        (["--topology", "v3:2x2", "--against", "nowhere.json"], r"nowhere.json: cannot be read"),
        (["--topology", "v3:2x2", "--config", "bse"], r"no config 'bse'"),
    ],
)
def test_mistakes_are_refused_in_one_line_before_anything_is_compiled(argv, message):
    with pytest.raises(UsageError, match=message) as refused:
        verb.main(argv)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": "v5e:4x4"}, r"topology is 'v5e:4x4', this one's is 'v5e:2x2'"),
        ({"batch_size": 8}, r"batch_size is 8, this one's is 4"),
        ({"flops": None}, r"no number 'flops'"),
        ({"peak": float("nan")}, r"no number 'peak'"),
    ],
)
def test_a_report_of_another_thing_is_refused_before_anything_is_compiled(
    changes, message, tmp_path
):
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(REPORT.to_dict() | {"config": "debug"} | changes))
    with pytest.raises(UsageError, match=message):
        verb.main(["--topology", "v5e:2x2", "--batch-size", "4", "--against", str(earlier)])


def test_the_configs_of_the_cascade_fit_together():
    base, first, second = (configs.get(n) for n in ("base", "sr_48x80", "sr_192x320"))
    assert (base.tier, first.tier, second.tier) == ("24x40", "48x80", "192x320")
    assert (base.model.upscale, first.model.upscale, second.model.upscale) == (1, 2, 4)
    assert base.model.temporal == "attention"
    assert first.model.temporal == second.model.temporal == "convolution"
    for config in (first, second):
        config.model.check_frames(*map(int, config.tier.split("x")))
        assert config.model.history_frames == 4


@pytest.mark.skipif(
    not chips.is_available(), reason="libtpu is not installed (pip install jax[tpu])"
)
def test_a_small_step_compiles_for_a_slice_and_its_report_holds(tmp_path):
    flags = """
        --config debug --topology v3:2x2 --tier 8x16 --frames 4 --tokens 8 --batch-size 8
        --model.channels 8 --model.multipliers 1 2 --model.attention 1 --model.heads 1
        --model.blocks 2 --model.scan --model.text-width 8 --model.dtype bfloat16
    """.split()

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", "preflight", *flags, *more],
            capture_output=True,
            text=True,
            env=os.environ | chips.ENVIRONMENT,
        )

    found = run("--mesh", "data=4,model=2", "--json")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["fits"] and report["memory"] == 16 * GIB and report["devices"] == 8
    assert report["flops"] > 0 and report["exchanged"] > 0 and report["collectives"]
    assert report["peak"] >= report["temporaries"] > 0
    (tmp_path / "small.json").write_text(json.dumps(report | {"flops": report["flops"] / 2}))
    grown = run("--mesh", "data=4,model=2", "--against", str(tmp_path / "small.json"))
    assert grown.returncode == 3 and "grew beyond 5%: flops" in grown.stderr
    assert "fits; " in grown.stdout
    refused = run("--mesh", "data=2,model=2")
    assert refused.returncode == 2 and "8 devices of v3:2x2" in refused.stderr.splitlines()[-1]
