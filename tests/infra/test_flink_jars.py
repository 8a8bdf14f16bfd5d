"""Jars that cannot be had are one thing, wrong ones another: `.ci/run` skips only the former."""

import os
import shutil
import subprocess
import sys

import pytest

from infra.flink import jars
from tests.command import ROOT

RUN = [sys.executable, "-m", "infra.flink.jars"]


def test_without_maven_they_cannot_be_had(tmp_path):
    env = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(
        [*RUN, "--cache", tmp_path / "cache"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "mvn is not there" in done.stderr


@pytest.mark.skipif(shutil.which("mvn") is None, reason="no Maven here")
def test_what_no_repository_gives_cannot_be_had(tmp_path):
    """Nothing listens on port 9, and there is no cache."""
    nowhere = [f"-D{x}.proxyHost=127.0.0.1 -D{x}.proxyPort=9" for x in ("http", "https")]
    env = os.environ | {"MAVEN_OPTS": " ".join([f"-Dmaven.repo.local={tmp_path / 'm2'}", *nowhere])}
    done = subprocess.run(
        [*RUN, "--cache", tmp_path / "cache"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "Maven could not fetch the jars of cluster" in done.stderr


@pytest.mark.skipif(
    "UNISIM_FLINK" not in os.environ, reason="fetches 160 MB by Maven: `make test-flink` runs this"
)
def test_a_jar_with_another_digest_is_an_error(tmp_path):
    text = jars._LOCK.read_text()
    (tmp_path / "lock").write_text(("1" if text[0] == "0" else "0") + text[1:])
    done = subprocess.run(
        [*RUN, "--cache", tmp_path / "cache", "--lock", tmp_path / "lock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{text.split()[1]} has the SHA-256 {text.split()[0]}" in done.stderr
