"""The graph on Beam's Prism runner: the table is the local run's, byte for byte. `make test-prism`
runs it."""

import os
import threading

import pytest

from infra import prism
from infra.demo.corpus import write_corpus
from schemas.table import TIMINGS
from tests.command import files_of, unisim
from tests.infra import gcs_server
from tests.terminal import Terminal

needs_prism = pytest.mark.skipif(
    "UNISIM_PRISM" not in os.environ,
    reason="Prism is a Go program, built in some minutes: `make test-prism` runs this",
)
PATIENCE = 240.0


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> list[object]:
    """The flags of a small corpus."""
    prism.build()
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), episodes=20)
    sources = [text for name, path in corpus.items() for text in ("--source", f"{name}={path}")]
    return [*sources, "--shard-mb", "0.5"]


@pytest.fixture(scope="module")
def local(given, tmp_path_factory) -> dict[str, bytes]:
    """The local run's table."""
    out = tmp_path_factory.mktemp("local") / "table"
    unisim("prepare", *given, "--out", out)
    return files_of(out)


@needs_prism
def test_a_small_corpus_gives_the_local_table(given, local, tmp_path):
    unisim("prepare", *given, "--out", tmp_path / "prism", "--runner", "PrismRunner")
    assert files_of(tmp_path / "prism") == local


@needs_prism
def test_progress_of_a_remote_table_is_by_beams_metrics(given, local, tmp_path):
    """Frames are seen moving before there is a receipt of any shard."""
    counted, gate = threading.Event(), threading.Event()

    def waits(name: str) -> str:
        if "array_record" in name:
            counted.set()
            gate.wait(PATIENCE)
        return ""

    with gcs_server.for_test(tmp_path, "out") as server:
        server.front.breaks = waits
        try:
            with Terminal(
                "prepare", *given, "--out", "gs://out/table", "--runner", "PrismRunner"
            ) as job:
                assert counted.wait(PATIENCE)
                job.wait_for(lambda job: job.progress(), PATIENCE)
                receipts = server.names("out", "table/_work/receipts/")
                gate.set()
                job.end(PATIENCE)
        finally:
            gate.set()
        found = server.files("out", "table")
        del found[TIMINGS]
    assert found == local
    first, last = job.progress()[0], job.progress()[-1]
    assert receipts == []
    assert first.shards == 0 and 0 < first.percent < 100 and first.frames_per_second
    assert last.shards == last.total and last.percent == 100


def test_the_users_own_prism_is_taken():
    given = ["--prism_location=/elsewhere/prism"]
    assert prism.complete(given) == given
