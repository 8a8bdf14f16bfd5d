"""A finished table that is changed: another source, what was lost, what is to be forgotten. Each
ends as the table would have been made at once."""

import functools
import itertools
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.demo.corpus import write_corpus
from pipelines import change, files, sources
from pipelines.job import load_manifest
from pipelines.stages import load_timings
from tests.command import files_of, unisim

NAMES = ("bridge", "something_something_v2")
FLAGS = ["--error-budget", "1", "--shard-mb", "0.02", "--tier", "24x40:raw", "--workers", 1]
RELEASED = ("plan.json", "plan.units.parquet")  # they have the stamps of the raw files


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("corpora")
    return {name: sources.get(name).fake(root / name, 0, traps=False) for name in NAMES}


def given(corpora: dict[str, Path], *names: str) -> list[object]:
    return [x for name in names for x in ("--source", f"{name}={corpora[name]}")]


@pytest.fixture(scope="module")
def tables(tmp_path_factory, corpora) -> dict[tuple[str, ...], Path]:
    """Tables of one source and of both, by their sources."""
    root, made = tmp_path_factory.mktemp("tables"), {}
    for names in ((NAMES[0],), NAMES):
        made[names] = root / "-".join(names)
        unisim("prepare", *given(corpora, *names), "--out", made[names], *FLAGS)
    return made


def times(out: Path) -> dict[str, int]:
    return {name: os.stat(out / name).st_mtime_ns for name in files_of(out)}


def without_stamps(found: dict[str, bytes]) -> dict[str, bytes]:
    """But for the plan, and its digests in the manifest."""
    manifest = json.loads(found["manifest.json"])
    for name in RELEASED:
        del manifest["files"][name]
    kept = {name: data for name, data in found.items() if name not in RELEASED}
    return kept | {"manifest.json": json.dumps(manifest).encode()}


def clean(out: Path) -> None:
    assert "0 violations" in unisim("audit", out).stdout
    assert not (out / "_work").exists()


def test_another_source_adds_its_shards_only(tmp_path, corpora, tables):
    out = tmp_path / "table"
    shutil.copytree(tables[NAMES[:1]], out)
    before, took = times(out), load_timings(str(out))
    said = unisim("plan", *given(corpora, *NAMES[1:]), "--out", out, *FLAGS[2:6]).stdout
    assert all(name in said for name in NAMES) and times(out) == before
    unisim("prepare", *given(corpora, *NAMES[1:]), "--out", out, *FLAGS)
    assert files_of(out) == files_of(tables[NAMES]), "as if both had been prepared at once"
    timings = load_timings(str(out))
    assert timings.keys() == set(NAMES) and timings[NAMES[0]] == took[NAMES[0]]
    same = {name for name, time in times(out).items() if before.get(name) == time}
    assert {n for n in before if n.startswith(("frames", "index"))} - same == {
        f"frames-24x40/bridge/1.0.0/{name}.json" for name in ("features", "dataset_info")
    }
    said = unisim("prepare", *given(corpora, *NAMES), "--out", out, *FLAGS).stdout
    assert "it was complete already" in said
    clean(out)


def test_a_table_takes_no_other_tier_or_other_data(tmp_path, corpora, tables):
    out = tables[NAMES[:1]]
    before = files_of(out)
    tier = ["--tier", "48x80:jpeg", *FLAGS]
    said = unisim("prepare", *given(corpora, *NAMES), "--out", out, *tier, code=2).stderr
    assert "tiers 24x40:raw there" in said and "give another --out" in said
    other = [*FLAGS[:2], *FLAGS[4:], "--shard-mb", "1"]
    said = unisim("prepare", *given(corpora, *NAMES), "--out", out, *other, code=2).stderr
    assert "--shard-mb 0.02 for bridge there, 1 now" in said
    assert files_of(out) == before


@pytest.fixture
def copies(tmp_path, corpora) -> dict[str, Path]:
    return {n: Path(shutil.copytree(path, tmp_path / n)) for n, path in corpora.items()}


def spoil(corpora: dict[str, Path], count: int) -> dict[Path, bytes]:
    """One clip and one TFRecord lose so many bytes in their middle; the whole ones."""
    clip = min(corpora[NAMES[1]].rglob("*.webm"))
    record = min(corpora[NAMES[0]].rglob("*tfrecord*"))
    whole = {path: path.read_bytes() for path in (clip, record)}
    for path, data in whole.items():
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes(count) + data[middle + count :])
    return whole


def mend(whole: dict[Path, bytes]) -> None:
    for path, data in whole.items():
        path.write_bytes(data)


def lost(out: Path) -> int:
    return sum(dataset.dead_letters for dataset in load_manifest(str(out)).datasets)


def test_what_was_lost_is_read_again_once_it_is_mended(tmp_path, copies, tables):
    out, whole = tmp_path / "table", spoil(copies, 64)
    unisim("prepare", *given(copies, *NAMES), "--out", out, *FLAGS)
    letters = pq.read_table(out / "dead_letters.parquet").to_pylist()
    assert {x["dataset"] for x in letters} == set(NAMES) and lost(out) > 1
    touched = {(x["dataset"], x["shard"]) for x in letters}
    before, took = times(out), load_timings(str(out))
    mend(whole)
    unisim("prepare", *given(copies, *NAMES), "--out", out, *FLAGS, "--replay-dead-letters")
    assert lost(out) == 0
    for name, now in load_timings(str(out)).items():
        assert all(seconds >= took[name][stage] for stage, seconds in now.items())
        assert now != took[name], "the time that was lost is time too"
    assert without_stamps(files_of(out)) == without_stamps(files_of(tables[NAMES]))
    index = {n for n, time in times(out).items() if n.startswith("index") and before[n] != time}
    assert {next(n for n in before if f"{d}-{s:05d}-of" in n) for d, s in touched} <= index
    assert len(index) < sum(name.startswith("index") for name in before)
    said = unisim("prepare", "--out", out, "--replay-dead-letters").stdout
    assert "it was complete already" in said
    clean(out)


def records(out: Path) -> set[tuple[str, str, int, str]]:
    rows = pq.read_table(out / "index.parquet").to_pylist()
    return {(r["dataset"], r["episode_id"], r["step"], str(r["digests"])) for r in rows}


def test_above_the_budget_what_was_mended_is_read_again_too(tmp_path, copies, tables):
    """And a file that could not be listed whole while it was planned is listed anew."""
    out, whole = tmp_path / "table", spoil(copies, 1 << 20)
    tight = ["--error-budget", "0", *FLAGS[2:]]
    said = unisim("prepare", *given(copies, *NAMES), "--out", out, *tight, code=1).stderr
    assert "run again with --replay-dead-letters" in said
    mend(whole)
    unisim("prepare", *given(copies, *NAMES), "--out", out, *tight, "--replay-dead-letters")
    assert records(out) == records(tables[NAMES]) and lost(out) == 0
    clean(out)


def test_a_replay_that_loses_too_much_leaves_the_table(tmp_path, copies):
    out, _ = tmp_path / "table", spoil(copies, 64)
    unisim("prepare", *given(copies, *NAMES), "--out", out, *FLAGS)
    before = files_of(out)
    unisim("prepare", "--out", out, "--error-budget", "0", "--replay-dead-letters", code=1)
    after = files_of(out)
    assert {name: after[name] for name in before} == before
    wrong = ["--replay-dead-letters", *FLAGS]
    raw = copies[NAMES[1]]
    elsewhere = raw.rename(tmp_path / "elsewhere")
    moved = ["--source", f"{NAMES[1]}={elsewhere}"]
    said = unisim("prepare", *moved, "--out", out, *wrong, code=2).stderr
    assert "leave --source out" in said and said.count("\n") == 1


def test_a_change_that_is_killed_while_files_move_goes_on(tmp_path, corpora, tables, monkeypatch):
    """At every single move; until the last one there is no manifest to be read."""
    staged = tmp_path / "staged"
    shutil.copytree(tables[NAMES[:1]], staged)
    finish = "import pipelines.change as c; c.finish = lambda out: False\n"
    (tmp_path / "sitecustomize.py").write_text(finish)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}")
        unisim("prepare", *given(corpora, *NAMES), "--out", staged, *FLAGS, code=1)
    assert (staged / change.NEXT / "manifest.json").exists(), "it is decided, and not in place"
    wanted = files_of(tables[NAMES])
    move = files.move
    count = 0
    for count in itertools.count():
        out = tmp_path / str(count)
        shutil.copytree(staged, out)
        left = iter(range(count))

        def failing(path, target, left=left):
            next(left)
            move(path, target)

        monkeypatch.setattr(files, "move", failing)
        try:
            ended = change.finish(str(out))
        except StopIteration:
            ended = False
            assert not (out / "manifest.json").exists()
        monkeypatch.setattr(files, "move", move)
        if ended:
            break
        said = unisim("audit", out, code=2).stderr if count == 1 else ""
        assert count != 1 or "was cut short; run the same command again" in said
        assert change.finish(str(out))
        found = files_of(out)
        assert {name: found[name] for name in wanted} == wanted
        shutil.rmtree(out)
    assert count > 5


def test_a_change_that_is_killed_while_it_is_tidied_up_goes_on(tmp_path, tables, monkeypatch):
    """Whatever is left of it by then, in whatever order it is deleted."""
    out, wanted = tmp_path / "table", files_of(tables[NAMES])
    there = Path(change.folder(str(out)))
    rmtree = shutil.rmtree

    class Killed(BaseException):
        pass

    def one_file_less(path, name, **_):
        (Path(path) / name).unlink(missing_ok=True)
        raise Killed

    for name in ("change.json", "drop.json", "manifest.json", "plan.json"):
        shutil.copytree(tables[NAMES[:1]], out)
        asked = change.Change(shards={NAMES[1]: [0]}, before="x")
        asked.begin(str(out))
        shutil.copytree(tables[NAMES], there, dirs_exist_ok=True)
        manifest = load_manifest(str(tables[NAMES]))
        change.decide(str(out), load_manifest(str(out)), manifest)
        monkeypatch.setattr(shutil, "rmtree", functools.partial(one_file_less, name=name))
        with pytest.raises(Killed):
            change.finish(str(out))
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        change.finish(str(out))
        found = files_of(out)
        assert {name: found[name] for name in wanted} == wanted
        assert asked.begin(str(out)), "there is nothing to go on with"
        shutil.rmtree(out)


def test_a_source_is_forgotten_and_prepared_again(tmp_path, corpora, tables):
    out = tmp_path / "table"
    shutil.copytree(tables[NAMES], out)
    digest = load_manifest(str(out)).digest()
    said = unisim("forget", "--data", out, "--source", NAMES[1], "--dry-run").stdout
    assert "nothing was changed" in said and files_of(out) == files_of(tables[NAMES])
    unisim("forget", "--data", out, "--source", NAMES[1], "--workers", 1)
    clean(out)
    took = {NAMES[0]: load_timings(str(tables[NAMES]))[NAMES[0]]}
    assert load_timings(str(out)) == took
    found, wanted = files_of(out), files_of(tables[NAMES[:1]])
    note = json.loads(found.pop("manifest.json"))
    manifest = json.loads(wanted.pop("manifest.json"))
    assert found == wanted, "as if it had never been there"
    [forgotten] = note.pop("forgotten")
    del manifest["forgotten"]
    assert note == manifest
    assert forgotten["source"] == NAMES[1] and forgotten["before"] == digest
    rows = pq.read_table(tables[NAMES] / "index.parquet").filter
    assert forgotten["records"] == {NAMES[1]: rows(mask(NAMES[1])).num_rows}
    unisim("prepare", *given(corpora, *NAMES), "--out", out, *FLAGS)
    again = files_of(out)
    del again["manifest.json"]
    assert again == {n: d for n, d in files_of(tables[NAMES]).items() if n != "manifest.json"}


def mask(name: str):
    import pyarrow.compute as pc

    return pc.field("dataset") == name


def test_a_uri_is_forgotten_as_if_it_had_never_been_read(tmp_path):
    """Of the demo's robots, whose controls are counted anew; both tiers."""
    corpus = write_corpus(tmp_path / "corpus", episodes=24)
    flags = ["--tier", "24x40:raw", "--tier", "48x80:jpeg", "--shard-mb", "0.3", *FLAGS[:2]]
    flags += [x for name, path in corpus.items() for x in ("--source", f"{name}={path}")]
    out = tmp_path / "table"
    unisim("prepare", *flags, "--out", out)
    index = pq.read_table(out / "index.parquet").to_pylist()
    uri = next(row["source_uri"] for row in index if row["dataset"] == "bridge")
    assert len({row["source_uri"] for row in index}) > 1
    before = times(out)
    unisim("forget", "--data", out, "--uri", uri)
    clean(out)
    left = pq.read_table(out / "index.parquet").to_pylist()
    kept = [row for row in index if not row["source_uri"].startswith(uri)]

    def told(rows):
        return [(r["dataset"], r["episode_id"], r["step"], r["digests"], r["text"]) for r in rows]

    assert told(left) == told(kept) and len(kept) < len(index)
    manifest = load_manifest(str(out))
    assert manifest.encoder().rows == len({row["text"] for row in left} | {""})
    changed = {n for n, time in times(out).items() if time != before.get(n) and "index" in n}
    assert changed == {
        f"index.parquet/{r['dataset']}-{r['shard']:05d}-of-{r['num_shards']:05d}.parquet"
        for r in index
        if r["source_uri"].startswith(uri)
    }


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ([], "give --source, --licence or --uri"),
        (["--source", "brigde"], "did you mean 'bridge'?"),
        (["--licence", "none such"], "no record has licence none such"),
        (["--uri", "/nowhere"], "a URI there is"),
        (["--uri", ""], "nothing to forget"),
    ],
)
def test_what_cannot_be_forgotten_is_refused(tables, flags, wanted):
    before = files_of(tables[NAMES])
    said = unisim("forget", "--data", tables[NAMES], *flags, code=2).stderr
    assert wanted in said and said.count("\n") == 1
    assert files_of(tables[NAMES]) == before


def test_the_last_record_cannot_be_forgotten(tables):
    out = tables[NAMES[:1]]
    said = unisim("forget", "--data", out, "--source", NAMES[0], code=2).stderr
    assert "every record has source bridge; delete the folder instead" in said
