"""The audit: silent on good tables, and it names what is wrong in damaged copies."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pipelines.audit import Opened, audit
from schemas import Tier, decode, encode
from schemas.columns import DEAD_LETTER_SCHEMA, INDEX_SCHEMA
from schemas.table import WRITER_OPTIONS
from tests.command import unisim


def bridge_file(table: Path) -> Path:
    return min(table.glob("frames-24x40/bridge/1.0.0/bridge-train.array_record-00000-*"))


def bridge_index(table: Path) -> Path:
    return min(table.glob("index.parquet/bridge-00000-*"))


def findings(table: Path) -> list[str]:
    return [str(finding) for finding in audit(Opened(str(table)))]


def test_the_fakes_and_the_real_sample_are_clean(fake_table, bridge_table):
    assert findings(fake_table) == []
    assert findings(bridge_table) == []


def test_exit_codes_and_summary(fake_table, tmp_path):
    result = unisim("audit", fake_table)
    assert "bridge" in result.stdout and "tiny-random" in result.stdout
    assert "not a language model" in result.stdout
    lines = result.stdout.splitlines()
    for dataset in json.loads((fake_table / "manifest.json").read_text())["datasets"]:
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"{dataset['name']} "))
        counts = [f"{count} {stage}" for stage, count in dataset["losses"].items()]
        assert lines[at].split()[5] == str(dataset["declared_losses"])
        said = lines[at + 1].removeprefix("  not kept: ").split(", ") if counts else []
        assert sorted(said) == sorted(counts)
    assert "run `unisim prepare` to its end" in unisim("audit", tmp_path, code=2).stderr


def rewrite(path: Path, change) -> None:
    """Writes an ArrayRecord file anew, with its records changed."""
    reader = ArrayRecordReader(str(path))
    records = change(list(reader.read_all()))
    reader.close()
    writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()


def change_chunk(record: bytes, **fields) -> bytes:
    import dataclasses

    tier = Tier(24, 40, "raw")
    return encode(dataclasses.replace(decode(record, tier), **fields))


def truncate(table: Path):
    data = (bridge_file(table)).read_bytes()
    (bridge_file(table)).write_bytes(data[: len(data) // 2])


def flip_pixel(table: Path):
    data = bytearray((bridge_file(table)).read_bytes())
    data[70_000] ^= 1
    (bridge_file(table)).write_bytes(bytes(data))


def empty_text(table: Path):
    rewrite(bridge_file(table), lambda r: [change_chunk(r[0], text="  "), *r[1:]])


def bad_control(table: Path):
    def change(records):
        controls = decode(records[0], Tier(24, 40, "raw")).controls.copy()
        controls[0, 0] = np.nan
        return [change_chunk(records[0], controls=controls), *records[1:]]

    rewrite(bridge_file(table), change)


def bad_overlap(table: Path):
    def change(records):
        overlap = np.full_like(decode(records[0], Tier(24, 40, "raw")).overlap, 2)
        return [change_chunk(records[0], overlap=overlap), *records[1:]]

    rewrite(bridge_file(table), change)


def drop_record(table: Path):
    rewrite(bridge_file(table), lambda r: r[:-1])


def swap_records(table: Path):
    rewrite(bridge_file(table), lambda r: [r[1], r[0], *r[2:]])


def foreign_record(table: Path):
    rewrite(bridge_file(table), lambda r: [b"not ours", *r[1:]])


def lose_index(table: Path):
    bridge_index(table).unlink()


def change_index(table: Path):
    path = bridge_index(table)
    rows = pq.read_table(path).to_pylist()
    rows[0]["text"] = "another text"
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), path)


def change_overlap(table: Path):
    path = bridge_index(table)
    rows = pq.read_table(path).to_pylist()
    rows[0]["overlap"] = 0.5
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), path)


def break_episode(table: Path):
    path = bridge_index(table)
    rows = pq.read_table(path).to_pylist()
    rows[-1]["is_last"] = False
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), path)


def change_keys(table: Path, change):
    path = next(table.glob("text/tiny-random/keys-*"))
    np.save(path, change(np.load(path)))


def lose_embedding(table: Path):
    change_keys(table, lambda keys: np.concatenate([np.zeros((1, 16), np.uint8), keys[1:]]))


def lose_key(table: Path):
    change_keys(table, lambda keys: keys[1:])


def swap_keys(table: Path):
    change_keys(table, lambda keys: keys[[1, 0, *range(2, len(keys))]])


def change_embedding(table: Path, change):
    path = next(table.glob("text/tiny-random/embeddings*"))
    rewrite(path, lambda r: [change(r[0]), *r[1:]])


def poison_embedding(table: Path):
    change_embedding(table, lambda row: b"\xff\xff" * (len(row) // 2))


def half_a_token(table: Path):
    change_embedding(table, lambda row: row[:-2])


def too_many_tokens(table: Path):
    change_embedding(table, lambda row: row[:128] * 65)


def drop_embedding(table: Path):
    rewrite(next(table.glob("text/tiny-random/embeddings*")), lambda r: r[:-1])


def poison_int8(table: Path):
    """The first encoder's rows as those of a second one, in int8, with a scale that is none."""
    path = table / "manifest.json"
    manifest = json.loads(path.read_text())
    first = manifest["encoders"][0]
    manifest["encoders"].append({**first, "name": "tiny-int8", "dtype": "int8"})
    path.write_text(json.dumps(manifest))
    folder = shutil.copytree(table / "text/tiny-random", table / "text/tiny-int8")
    row = np.array([np.inf], "<f4").tobytes() + bytes(64)
    rewrite(next(folder.glob("embeddings*")), lambda r: [row] * len(r))


def lie_about_counts(table: Path):
    path = table / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["datasets"][0]["frames"] += 1
    path.write_text(json.dumps(manifest))


def lie_about_losses(table: Path):
    path = table / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["datasets"][0]["losses"]["overlap"] = 37
    path.write_text(json.dumps(manifest))


def forget_a_loss(table: Path):
    path = table / "dead_letters.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[1:], DEAD_LETTER_SCHEMA), path)


def no_letters(table: Path):
    (table / "dead_letters.parquet").write_bytes(b"PAR1 but no more")


def letters_of_another_kind(table: Path):
    path = table / "dead_letters.parquet"
    letters = pq.read_table(path)
    at = letters.column_names.index("episodes")
    words = pa.array(["one"] * len(letters))
    pq.write_table(letters.set_column(at, "episodes", words), path)


def orphan(table: Path):
    (table / "frames-24x40/extra.array_record").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (truncate, "cannot be read"),
        (flip_pixel, "the manifest says"),
        (empty_text, "the action text is empty"),
        (bad_control, "not finite"),
        (bad_overlap, "an overlap is outside 0..1"),
        (drop_record, "records, the index has"),
        (swap_records, "the index has the digest of"),
        (foreign_record, "not a tf.train.Example"),
        (lose_index, "not there"),
        (change_index, "the index says 'another text'"),
        (change_overlap, "overlap is None, the index says 0.5"),
        (break_episode, "not is_last"),
        (lose_embedding, "has no embedding"),
        (lose_key, ", 16], wanted uint8 ["),
        (swap_keys, "the keys are not sorted and unique"),
        (poison_embedding, "row 0 is not finite"),
        (half_a_token, "are not tokens of 64 bfloat16 values"),
        (too_many_tokens, "row 0 has 65 tokens, over 64"),
        (drop_embedding, "rows, the manifest says"),
        (poison_int8, "row 1 is not finite"),
        (lie_about_counts, "the index has"),
        (lie_about_losses, "'overlap': 37}, dead_letters.parquet has"),
        (forget_a_loss, "dead_letters.parquet has"),
        (no_letters, "manifest: dead_letters.parquet: cannot be read"),
        (letters_of_another_kind, "no column ['episodes'] of the type wanted"),
        (orphan, "not listed in the manifest"),
    ],
)
def test_planted_damage_is_found(tmp_path, fake_table, damage, expected):
    table = tmp_path / "table"
    shutil.copytree(fake_table, table)
    damage(table)
    found = findings(table)
    assert any(expected in line for line in found), found
    unisim("audit", table, code=3)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema_version": 99}'])
def test_a_manifest_that_is_none(tmp_path, fake_table, text):
    (tmp_path / "manifest.json").write_text(text)
    assert "manifest.json" in unisim("audit", tmp_path, code=2).stderr
