"""The audit: silent on clean tables, and it finds every defect that is planted in one."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.audit import CHECKS, Opened, Statistics, Whole, audit, scope_of
from pipelines.audit.check import FINDING_SCHEMA
from pipelines.audit.report import render
from pipelines.audit.summary import Summary
from schemas import UsageError
from schemas.columns import INDEX_SCHEMA
from tests.command import files_of, unisim
from tests.pipelines.defects import DISK, DRAFT, Defect
from tests.pipelines.planted import Draft, change_index, change_manifest
from tests.samples import sample

DENIED = ["cc-by-nc-4.0"]
DEFECTS = {**DRAFT, **DISK}


def findings(table: Path, **more) -> list:
    return list(audit(Opened(str(table)), **more))


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return Draft().write(tmp_path_factory.mktemp("audit") / "clean")


@pytest.fixture(scope="module")
def statistics(clean) -> dict[str, Statistics]:
    table = Opened(str(clean))
    whole = Whole(table, scope_of(table.out))
    assert list(audit(table, whole=whole)) == []
    return whole.statistics


def plant(defect: Defect, name: str, clean: Path, out: Path) -> Path:
    if name in DRAFT:
        draft = Draft()
        defect.plant(draft)
        return draft.write(out)
    shutil.copytree(clean, out)
    defect.plant(out)
    return out


def test_clean_tables_have_no_findings(clean, statistics, fake_table, bridge_table):
    assert findings(clean, denied=DENIED, before=statistics) == []
    assert findings(fake_table) == []
    assert findings(bridge_table) == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("laion", "laion/img2dataset"),
        ("panorama", "panorama"),
        ("language_table", "language_table/language_table_blocktoblock_oracle_sim/0.0.1"),
    ],
)
def test_real_samples_have_no_findings(tmp_path, name, path):
    flags = ("--tier", "24x40:raw", "--tier", "192x320:jpeg", "--workers", 1)
    unisim("prepare", "--source", f"{name}={sample(path)}", "--out", tmp_path / "out", *flags)
    assert findings(tmp_path / "out") == []


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found_and_named(tmp_path, clean, statistics, name):
    defect = DEFECTS[name]
    table = plant(defect, name, clean, tmp_path / "table")
    before = files_of(table)
    compared = statistics if defect.checks[0].startswith("drift") else None
    found = findings(table, denied=DENIED, before=compared)
    assert {each.check for each in found} == set(defect.checks), [str(each) for each in found]
    named = [each.where for each in found if each.check == defect.checks[0]]
    assert any(defect.where in where for where in named), named
    assert files_of(table) == before


def test_every_check_finds_some_defect():
    assert len(DEFECTS) >= 40
    found = {check for defect in DEFECTS.values() for check in defect.checks}
    assert set(CHECKS) == found | {"drift-manifest"}  # which has a test of its own


def test_workers_find_what_one_process_finds(tmp_path, clean):
    table = tmp_path / "table"
    shutil.copytree(clean, table)
    for name in ("flipped_bit", "embedding_lost", "no_empty_text", "another_licence_in_the_index"):
        DISK[name].plant(table)
    alone, spread = tmp_path / "alone.jsonl", tmp_path / "spread.jsonl"
    first = unisim("audit", table, "--jsonl", alone, "--most", 3, code=3)
    second = unisim("audit", table, "--jsonl", spread, "--workers", 2, "--most", 3, code=3)
    assert alone.read_text() == spread.read_text()
    assert first.stdout == second.stdout and "more" in first.stdout
    lines = [json.loads(line) for line in alone.read_text().splitlines()]
    assert {"file-readable", "embedding-rows", "index-agrees"} <= {line["check"] for line in lines}


def test_files_for_machines(tmp_path, clean):
    table = plant(DRAFT["no_licence"], "no_licence", clean, tmp_path / "table")
    jsonl, parquet = tmp_path / "out/findings.jsonl", tmp_path / "out/findings.parquet"
    unisim("audit", table, "--jsonl", jsonl, "--parquet", parquet, code=3)
    rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
    found = pq.read_table(parquet)
    assert found.to_pylist() == rows and found.schema == FINDING_SCHEMA
    (row,) = (row for row in rows if row["check"] == "licence-missing")
    assert (row["dataset"], row["episode_id"], row["step"]) == ("photos", "photo-11", 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [jsonl.name, parquet.name]


def test_exit_codes(tmp_path, clean):
    assert "0 violations, 0 warnings" in unisim("audit", clean).stdout
    table = plant(DRAFT["gray_picture"], "gray_picture", clean, tmp_path / "table")
    assert "0 violations, 1 warnings" in unisim("audit", table).stdout
    unisim("audit", table, "--strict", code=1)
    unisim("audit", table, "--strict", "--families", "schema", "rights")
    unisim("audit", clean, "--deny-licence", "cc0-1.0", code=3)
    assert "run `unisim prepare` to its end" in unisim("audit", tmp_path, code=2).stderr
    assert "no table given" in unisim("audit", code=2).stderr


def test_the_list_of_checks():
    lines = unisim("audit", "--list").stdout.splitlines()
    for check in CHECKS.values():
        assert any(line.split()[:2] == [check.name, check.severity] for line in lines)


def test_a_sample_reads_a_part_and_always_the_same(clean):
    table = Opened(str(clean))
    counts = []
    for part in (0.25, 0.25, 0.5, 1.0):
        whole = Whole(table, scope_of(table.out, sample=part))
        assert list(audit(table, scope=scope_of(table.out, sample=part), whole=whole)) == []
        counts.append(whole.read)
    assert 0 < counts[0] == counts[1] < counts[2] < counts[3]


def test_what_has_moved_since(tmp_path, clean):
    table = plant(DRAFT["darker_pictures"], "darker_pictures", clean, tmp_path / "table")
    saved = tmp_path / "before.json"
    unisim("audit", clean, "--statistics", saved)
    for against in (clean, clean / "manifest.json", saved):
        out = unisim("audit", table, "--against", against, "--strict", code=1).stdout
        assert "drift-shape: drone: brightness: a Jensen-Shannon distance of" in out
    unisim("audit", clean, "--against", saved, "--strict")
    saved.write_text("{}[")
    assert "no statistics" in unisim("audit", clean, "--against", saved, code=2).stderr


def test_what_has_moved_since_an_earlier_manifest(tmp_path, clean):
    copy = shutil.copy(clean / "manifest.json", tmp_path / "old.json")
    unisim("audit", clean, "--against", copy, "--strict")
    for name, said in (
        ("episodes_gone", "photos: 10 episodes, 60 before (-83%)"),
        ("dataset_gone", "drone: is no longer in the table"),
        ("slower_controls", "arm: gripper: its mean has moved by"),
    ):
        table = plant(DEFECTS[name], name, clean, tmp_path / name)
        out = unisim("audit", table, "--against", copy, "--strict", code=1).stdout
        assert f"drift-manifest: {said}" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[texts]", "no section [texts]; did you mean 'text'?"),
        ("[text]\nlength = 3", "no text.length"),
        ("[text]\ncharacters = 'many'", "wanted a number"),
        ("[text", "cannot be read"),
    ],
)
def test_limits_of_ones_own(tmp_path, clean, text, said):
    path = tmp_path / "limits.toml"
    path.write_text(text)
    assert said in unisim("audit", clean, "--limits", path, code=2).stderr
    path.write_text("[text]\ncharacters = 10\n")
    assert "text-long" in unisim("audit", clean, "--limits", path).stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--sample", "2"), "--sample 2: wanted a part"),
        (("--sample", "many"), "--sample many: wanted a part"),
        (("--families", "rigths"), "did you mean 'rights'?"),
        (("--against", "/nowhere"), "/nowhere: no table"),
        (("--runner", "FlinkRunner"), "wanted --work"),
        (("--report", "TABLE/report.html"), "within the table, which is never changed"),
        (("--work", "TABLE/work"), "within the table, which is never changed"),
        (("--wokers", "2"), "unknown flag --wokers; did you mean 'workers'?"),
    ],
)
def test_flags_that_cannot_be_meant(clean, flags, said):
    flags = [text.replace("TABLE", str(clean)) for text in flags]
    assert said in unisim("audit", clean, *flags, code=2).stderr


def test_results_of_an_earlier_audit_are_not_believed(tmp_path, clean):
    table, work = shutil.copytree(clean, tmp_path / "table"), tmp_path / "work"
    unisim("audit", table, "--work", work, "--workers", 1)
    DISK["flipped_bit"].plant(table)
    assert "file-digest" in unisim("audit", table, "--work", work, "--workers", 1, code=3).stdout


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema_version": 99}'])
def test_a_manifest_that_is_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert "manifest.json" in unisim("audit", tmp_path, code=2).stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"../outside": [1, "0"]}),
        lambda m: m["files"].update({"/etc/passwd": [1, "0"]}),
        lambda m: m["files"].update({"manifest.json": None}),
        lambda m: m["datasets"][0].update(name="../arm"),
        lambda m: m["datasets"][0].update(version="1/../.."),
        lambda m: m["datasets"][0].update(num_shards=3),
        lambda m: m["datasets"][0].update(num_shards="two"),
        lambda m: m["datasets"][0].update(frames=None),
        lambda m: m["datasets"][0].update(clipped={"ee_dx": "many"}),
        lambda m: m["datasets"][0]["shard_rows"].update(train=[-1, 3]),
        lambda m: m["datasets"][0]["shard_rows"].update(dev=[0, 0]),
        lambda m: m["encoders"][0].update(name="../fake"),
        lambda m: m["encoders"][0].update(width=0),
        lambda m: m["encoders"][0].update(shard_rows=["a"]),
        lambda m: m.update(tiers=["24by40"]),
    ],
)
def test_a_manifest_that_leads_out_of_the_table_or_counts_in_words(tmp_path, clean, change):
    table = shutil.copytree(clean, tmp_path / "table")
    change_manifest(table, change)
    with pytest.raises(UsageError, match=r"manifest\.json: not a manifest"):
        Opened(str(table))


@pytest.mark.parametrize("column", INDEX_SCHEMA.names)
def test_an_index_with_holes(tmp_path, clean, column):
    table = shutil.copytree(clean, tmp_path / "table")
    change_index(table, "arm", lambda rows: [rows[0] | {column: None}, *rows[1:]])
    found = [str(each) for each in findings(table)]
    silent = column in ("overlap", "clipped_slots")  # which may be unknown
    assert silent == (not found) and (silent or any(column in each for each in found))


def test_of_several_holes_always_the_same_is_named(tmp_path, clean):
    table = shutil.copytree(clean, tmp_path / "table")
    hole = dict.fromkeys(INDEX_SCHEMA.names)
    change_index(table, "arm", lambda rows: [hole, *rows[1:]])
    assert any("rows have no dataset" in str(each) for each in findings(table))


def test_there_is_a_report_of_every_spoiled_table(tmp_path, clean):
    for name, defect in DEFECTS.items():
        table = Opened(str(plant(defect, name, clean, tmp_path / name)))
        scope = scope_of(table.out)
        whole, summary = Whole(table, scope), Summary()
        for finding in audit(table, scope=scope, whole=whole):
            summary.add(finding)
        page = render(table, scope, whole, summary)
        assert "</html>" in page and all(check in page for check in summary.checks)
        shutil.rmtree(table.out)


def test_a_report_tells_of_no_check_that_was_not_made(clean):
    table = Opened(str(clean))
    scope = scope_of(table.out)
    end = (table, scope, Whole(table, scope), Summary())
    without, page = render(*end), render(*end, denied=["X <1>"], compared=True)
    assert "licence-denied" not in without and "drift-count" not in without
    assert "licence-denied" in page and "drift-count" in page and "Denied: X &lt;1&gt;." in page


def test_what_a_terminal_would_obey_is_shown_as_text(tmp_path, clean):
    name = "text_that_steers_a_terminal"
    table = plant(DRAFT[name], name, clean, tmp_path / "table")
    out = unisim("audit", table).stdout
    assert "\x1b" not in out and "U+001B" in out
