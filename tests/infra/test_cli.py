"""The command: help, and one clear line with exit 2 and nothing written for what cannot be done."""

import json

import pytest

from infra.cli import VERBS
from pipelines import sources
from tests.command import ROOT, unisim
from tests.conftest import BRIDGE
from tests.samples import sample
from trainer.configs.config import PAPER_WEIGHTS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    text = unisim(verb, "--help").stdout
    assert f"usage: unisim {verb}" in text and len(text.splitlines()) > 5


def test_help_lists_every_verb_that_exists():
    text = unisim("--help").stdout
    assert all(verb in text for verb in VERBS)
    files = {path.stem for path in (ROOT / "infra/verbs").glob("[a-z]*.py")}
    assert files == set(VERBS)


def test_sources_lists_and_explains():
    listing = unisim("sources").stdout
    assert all(name in listing for name in sources.names())
    explained = unisim("sources", "rt1").stdout
    for text in ("fractal20220817_data/0.1.0/", "gsutil", "world_vector[0]", "ee_dx", "-1..1"):
        assert text in explained


def test_training_uses_the_weights_that_sources_states():
    for name in sources.names():
        weight = sources.get(name).INFO.weight
        assert weight in (None, PAPER_WEIGHTS.get(name))


def test_the_page_of_sources_says_what_the_command_says():
    """A source that is new may be absent from the page; what is on it must be right."""
    page, now = (
        {section.split("\n", 1)[0]: section.strip() for section in text.split("\n## ")[1:]}
        for text in (
            (ROOT / "pipelines/sources/README.md").read_text(),
            unisim("sources", "--markdown").stdout,
        )
    )
    assert page and set(now) == set(sources.names())
    for name, section in page.items():
        assert section == now[name], "run `make pages`"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["prepaer"], "did you mean 'prepare'?"),
        (["sources", "brige"], "did you mean 'bridge'?"),
        (["prepare", "--source", "brige=/x", "--out", "OUT"], "did you mean 'bridge'?"),
        (["prepare", "--source", "bridge=/no/such", "--out", "OUT"], "/no/such: no such path"),
        (["prepare", "--source", "bridge", "--out", "OUT"], "wanted NAME=PATH"),
        (["prepare", "--out", "OUT"], "no --source"),
        (["prepare", "--source", "bridge=TMP", "--out", "OUT"], "no dataset_info.json"),
        (["prepare", "--source", "laion=TMP", "--out", "OUT"], "0 *.tar"),
        (["prepare", "--source", "something_something_v2=TMP", "--out", "OUT"], "train.json"),
        (["plan", "--source", "laion=TMP", "--out", "OUT", "--tier", "24"], "HEIGHTxWIDTH"),
        (["plan", "--source", "laion=TMP", "--out", "OUT", "--fps", "x"], "--fps x"),
        (["plan", "--source", "laion=TMP", "--out", "OUT", "--option", "x"], "NAME.OPTION=NUMBER"),
        (["plan", "--source", "laion=TMP", "--out", "OUT", "--option", "laion.x=1"], "laion.x"),
        (["plan", "--source", "laion=TMP", "--out", "OUT", "--option", "laion.x=nan"], "finite"),
        (
            ["plan", "--source", "ego4d=TMP", "--out", "OUT", "--option", "ego4d.max_seconds=0"],
            "wanted 0.1 to 3600",
        ),
        (["prepare", "--source", "laion=TMP", "--out", "OUT", "--t5", "/no/t5"], "/no/t5"),
        (["prepare", "--source", "laion=TMP", "--out", "OUT", "--budget", "1"], "unknown flag"),
        (["audit", "/no/table"], "/no/table"),
        (["embed", "--data", "/no/table"], "/no/table: no table"),
        (["embed", "--data", "TMP", "--texts", "x"], "run `unisim prepare` to its end"),
        (["train", "--config", "debug", "--data", "TMP", "--out", "OUT"], "manifest.json"),
        (["train", "--config", "debgu", "--data", "TMP", "--out", "OUT"], "'debug'"),
        (
            [
                "simulate",
                "--checkpoint",
                "TMP",
                "--start",
                "x.png",
                "--action",
                "a",
                "--out",
                "OUT",
            ],
            "TMP",
        ),
    ],
)
def test_misuse_is_one_line_exit_2_and_nothing_written(tmp_path, args, expected):
    source = tmp_path / "source"
    source.mkdir()
    out = tmp_path / "out"
    places = {"TMP": str(source), "OUT": str(out)}
    for name, path in places.items():
        args = [arg.replace(name, path) for arg in args]
        expected = expected.replace(name, path)
    result = unisim(*args, code=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("unisim: ")]
    assert len(lines) == 1 and result.stdout == ""
    assert expected in lines[0]
    assert not out.exists() and not list(source.iterdir())


def test_another_plan_is_refused(tmp_path, fakes):
    flags = ["--source", f"laion={fakes['laion']}", "--out", tmp_path / "out"]
    unisim("plan", *flags)
    before = (tmp_path / "out/plan.json").read_bytes()
    assert "written" not in unisim("plan", *flags).stdout
    for change in (["--fps", "3"], ["--tier", "48x80:raw"], ["--prefix-dataset"]):
        assert "holds another plan" in unisim("plan", *flags, *change, code=2).stderr
    assert (tmp_path / "out/plan.json").read_bytes() == before


def test_a_folder_that_is_no_table_is_left_alone(tmp_path, fakes):
    (tmp_path / "letter.txt").write_text("mine")
    result = unisim("prepare", "--source", f"laion={fakes['laion']}", "--out", tmp_path, code=2)
    assert "not empty and not a table" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_the_plan_of_the_real_sample(tmp_path):
    source = f"bridge={sample(BRIDGE)}"
    text = unisim("plan", "--source", source, "--out", tmp_path / "out").stdout
    plan = json.loads((tmp_path / "out/plan.json").read_text())
    assert plan["estimate"]["episodes"] == 25 and "25 episodes" in text
    assert plan["estimate"]["raw_bytes"] == 3475142
