"""The loader half of preflight: what this machine reads, against what a host would take."""

import dataclasses

import pytest

from infra.verbs import preflight as verb
from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer.train import host
from trainer.train.report import Report

REPORT = Report(
    config="x",
    topology="v5p:2x2x2",
    devices=8,
    data=8,
    model=1,
    batch_size=8,
    parameters=1,
    memory=1,
    peak=1,
    compute=0.5,
    efficiency=0.5,
    effort="least",
    compiled=0.0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.table(tmp_path_factory.mktemp("table"))


def test_a_host_reads_its_part_and_is_held_against_the_step(data, monkeypatch):
    monkeypatch.setattr(host, "_SECONDS", 0.05)
    config = tiny.config(batch_size=8, steps=100, model_axis=2)
    setup, hosts = host.open_host(config, "v5p:2x2x2", [data])
    assert hosts == 2
    found = host.measure(setup, hosts, REPORT)
    assert (found.samples, found.wanted) == (4, 4.0)  # a step takes a second at half the rate
    assert found.measured > 20 and not found.data_bound
    counts = {name: len(part) for name, part in setup.samples.by_dataset.items()}
    assert found.epochs == {name: pytest.approx(400 / n) for name, n in counts.items()}
    assert "one of 2 hosts takes 4: not data-bound" in str(found)
    fast = dataclasses.replace(REPORT, compute=1e-9)
    bound = host.measure(setup, hosts, fast)
    assert bound.data_bound and bound.to_dict()["data_bound"] is True
    assert "data-bound: the chips would wait" in str(bound)


def test_mistakes_are_refused_before_anything_is_compiled(data, tmp_path):
    with pytest.raises(UsageError, match="does not divide over the 16 hosts of v5p:4x4x4; wanted"):
        host.open_host(tiny.config(batch_size=8), "v5p:4x4x4", [data])
    flags = ["--config", "debug", "--topology", "v5e:2x2", "--batch-size", "8"]
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        verb.main([*flags, "--data", str(tmp_path)])
    with pytest.raises(UsageError, match="has no tier '24x40'"):
        verb.main([*flags, "--data", data])
