"""The graph on Beam's Prism runner: the table is the local run's, byte for byte. `make test-prism`
runs it."""

import os

import pytest

from infra import prism
from infra.demo.corpus import write_corpus
from tests.command import files_of, unisim


@pytest.mark.skipif(
    "UNISIM_PRISM" not in os.environ,
    reason="Prism is a Go program, built in some minutes: `make test-prism` runs this",
)
def test_a_small_corpus_gives_the_local_table(tmp_path):
    prism.build()
    corpus = write_corpus(tmp_path / "corpus", episodes=20)
    given = [text for name, path in corpus.items() for text in ("--source", f"{name}={path}")]
    given += ["--shard-mb", "0.5"]
    unisim("prepare", *given, "--out", tmp_path / "local")
    unisim("prepare", *given, "--out", tmp_path / "prism", "--runner", "PrismRunner")
    assert files_of(tmp_path / "prism") == files_of(tmp_path / "local")


def test_the_users_own_prism_is_taken():
    given = ["--prism_location=/elsewhere/prism"]
    assert prism.complete(given) == given
