"""The Beam graph of `unisim forget`: shards that hold what is to go are written again without it.

Records are copied as they are; no raw data is read, nothing is decoded but the controls, which are
counted anew. Embeddings of texts that no other record has go too.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
from apache_beam.pvalue import AsList
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pipelines import change, counted, files, plan, receipt
from pipelines.change import Change
from pipelines.commit import assemble, describe, group, together
from pipelines.job import load_manifest
from pipelines.plan import Plan
from pipelines.receipt import Receipt, SlotStatistics
from pipelines.stages import Stages, add_timings
from pipelines.tally import Tally
from pipelines.text.table import without
from pipelines.write import write_index
from schemas import Manifest, Tier, UsageError, controls, decode, text_key
from schemas.errors import did_you_mean
from schemas.table import WRITER_OPTIONS, Forgotten, frames_file, index_file

_READ = 64  # records at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetJob:
    """One run of `forget`; the shards are those of the `Change` that is under way.

    Attributes:
        out: the table's folder.
        rule: with the records that are to go.
        datasets: those that stay.
    """

    out: str
    rule: Forgotten
    datasets: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """One shard to be written again."""

    out: str
    rule: Forgotten
    dataset: str
    shard: int
    root: str


def make_job(out: str, rule: Forgotten) -> tuple[ForgetJob, Change]:
    """What there is to do.

    Raises:
        UsageError: if there is no whole table, nothing in it matches, or all of it does.
    """
    manifest = load_manifest(out)
    roots = {dataset.name: dataset.root for dataset in Plan.load(out).datasets}
    touched: dict[str, list[int]] = defaultdict(list)
    gone: Counter[str] = Counter()
    passports: dict[str, set[str]] = {"source": set(roots), "licence": set(), "uri": set()}
    for dataset in manifest.datasets:
        for shard in range(dataset.num_shards):
            rows = _index(out, dataset.name, shard, dataset.num_shards, _PASSPORT)
            passports["licence"].update(row["license"] for row in rows)
            passports["uri"].update(row["source_uri"] for row in rows[:1])
            count = sum(_matches(rule, row, roots[dataset.name]) for row in rows)
            if count:
                gone[dataset.name] += count
                touched[dataset.name].append(shard)
    if not gone:
        raise UsageError(f"{out}: no record has {rule}; {_hint(rule, passports)}")
    stay = tuple(d.name for d in manifest.datasets if gone[d.name] < d.chunks)
    if not stay:
        raise UsageError(f"{out}: every record has {rule}; delete the folder instead")
    before = manifest.digest()
    rule = dataclasses.replace(rule, records=dict(sorted(gone.items())), before=before)
    shards = {name: shards for name, shards in touched.items() if name in stay}
    asked = dataclasses.asdict(rule)
    return ForgetJob(out=out, rule=rule, datasets=stay), Change(
        shards=shards, before=before, rule=asked
    )


_PASSPORT = ["dataset", "license", "source_uri"]


def _matches(rule: Forgotten, row: dict[str, Any], root: str) -> bool:
    uri = row["source_uri"]
    uris = (uri, plan.absolute_uri(uri, root))
    return rule.matches(source=row["dataset"], license=row["license"], uris=uris)


def _hint(rule: Forgotten, passports: dict[str, set[str]]) -> str:
    if rule.source and rule.source not in passports["source"]:
        return f"--source: {did_you_mean(rule.source, sorted(passports['source']))}"
    if rule.license and rule.license not in passports["licence"]:
        return f"--licence: {did_you_mean(rule.license, sorted(passports['licence']))}"
    return f"a URI there is {min(passports['uri'])}"


def build(root: beam.Pipeline, job: ForgetJob) -> None:
    """Adds the whole of `forget` to a pipeline."""
    once = root | "Once" >> beam.Create([job])
    receipts = (
        once
        | "Shards" >> beam.FlatMap(_tasks).with_output_types(_Task)
        | "Spread" >> beam.Reshuffle()
        | "Rewrite" >> beam.Map(_rewrite).with_output_types(Receipt)
    )
    _ = once | "Commit" >> beam.Map(commit, AsList(receipts))


def costs(out: str, asked: Change) -> dict[tuple[str, int], int]:
    """(dataset, shard) -> bytes of its files, of those that are written again."""
    manifest = load_manifest(out)
    return {
        (name, shard): _cost(manifest, name, shard)
        for name, shards in asked.shards.items()
        for shard in shards
    }


def _cost(manifest: Manifest, dataset: str, shard: int) -> int:
    info = next(d for d in manifest.datasets if d.name == dataset)
    return sum(
        manifest.files[
            frames_file(Tier.parse(tier), dataset, info.version, split, shard, info.num_shards)
        ][0]
        for tier in manifest.tiers
        for split in info.shard_rows
    )


def _tasks(job: ForgetJob) -> Iterator[_Task]:
    roots = {dataset.name: dataset.root for dataset in Plan.load(job.out).datasets}
    current = Change.load(job.out)
    for name, shards in current.shards.items() if current else ():
        for shard in shards:
            yield _Task(out=job.out, rule=job.rule, dataset=name, shard=shard, root=roots[name])


def _rewrite(task: _Task) -> Receipt:
    """Writes a shard's files without what is to go, or finds them done."""
    into = change.folder(task.out)
    manifest = load_manifest(task.out)
    cost = _cost(manifest, task.dataset, task.shard)
    done = receipt.load(task.out, task.dataset, task.shard, into)
    with Tally(task.out, task.dataset, task.shard, found=done is not None) as tally:
        result = done or _written(task, manifest, into)
        tally.whole(result, cost)
    return result


def _written(task: _Task, manifest: Manifest, into: str) -> Receipt:
    info = next(d for d in manifest.datasets if d.name == task.dataset)
    of_index = index_file(task.dataset, task.shard, info.num_shards)
    rows = _index(task.out, task.dataset, task.shard, info.num_shards)
    kept = [row for row in rows if not _matches(task.rule, row, task.root)]
    tiers = [Tier.parse(text) for text in manifest.tiers]
    written: dict[str, list[Any]] = {}
    counts = _Counts(tiers[0])
    for split in info.shard_rows:
        mine = [row for row in kept if row["split"] == split]
        for tier in tiers:
            name = frames_file(tier, info.name, info.version, split, task.shard, info.num_shards)
            records = _records(files.join(task.out, name), [row["position"] for row in mine])
            if tier == tiers[0]:
                records = counts.counting(records, mine)
            written[name] = _copy(records, files.join(into, name))
        for position, row in enumerate(mine):
            row["position"] = position
    written[of_index] = write_index(kept, files.join(into, of_index))
    views = {row["episode_id"] for row in kept}
    result = Receipt(
        dataset=task.dataset,
        shard=task.shard,
        files=dict(sorted(written.items())),
        rows={split: sum(row["split"] == split for row in kept) for split in info.shard_rows},
        episodes=len({view.rsplit("@", 1)[0] for view in views}),
        views=len(views),
        frames=sum(row["num_frames"] for row in kept),
        dead_letters=[],  # they stay, as `stages` do: `commit`
        statistics=counts.statistics(kept),
        slots=[int(i) for i in np.flatnonzero(counts.mask)],
        texts=[],
    )
    result.save(task.out)
    return result


class _Counts:
    """What the kept records' controls are, as the writer of a shard counts them."""

    def __init__(self, tier: Tier):
        self.mask = np.zeros(controls.NUM_SLOTS, bool)
        self._tier = tier
        self._chunks: dict[tuple[str, int], Any] = {}

    def counting(self, records: Iterable[bytes], rows: list[dict[str, Any]]) -> Iterator[bytes]:
        """The records, looked into on their way."""
        for row, data in zip(rows, records, strict=True):
            chunk = dataclasses.replace(decode(data, self._tier), frames=())
            self.mask |= chunk.control_mask
            self._chunks[row["episode_id"], row["step"]] = chunk
            yield data

    def statistics(self, rows: list[dict[str, Any]]) -> SlotStatistics:
        """In the order of the index, on which sums of floats depend."""
        result = SlotStatistics()
        for row in rows:
            clipped = np.zeros(controls.NUM_SLOTS, np.int64)
            for name, count in row["clipped_slots"]:
                clipped[controls.INDEX[name]] = count
            result.add_chunk(self._chunks[row["episode_id"], row["step"]], clipped)
        return result


def _index(
    out: str, dataset: str, shard: int, num_shards: int, columns: list[str] | None = None
) -> list[dict[str, Any]]:
    path = files.join(out, index_file(dataset, shard, num_shards))
    try:
        with files.local_copy(path) as local:
            return pq.read_table(local, columns=columns).to_pylist()
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: cannot be read ({e}); see `unisim audit {out}`") from e


def _records(path: str, positions: list[int]) -> Iterator[bytes]:
    """Those of an ArrayRecord file at ascending positions."""
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(files.local_copy(path))
        try:
            reader = ArrayRecordReader(local, "readahead_buffer_size:0,max_parallelism:0")
            for start in range(0, len(positions), _READ):
                yield from reader.read(positions[start : start + _READ])
            reader.close()
        except Exception as e:  # the reader names damage by exceptions of no common kind
            raise UsageError(f"{path}: cannot be read ({e}); see `unisim audit`") from e


def _copy(records: Iterable[bytes], path: str) -> list[Any]:
    with files.local_write(path) as local:
        writer = ArrayRecordWriter(local, WRITER_OPTIONS)
        for data in records:
            writer.write(data)
        writer.close()
        return files.digest(local)


def commit(job: ForgetJob, receipts: Iterable[Receipt]) -> None:
    """Ends a job: what stands above the shards, the embeddings, and last the manifest, which lies
    beside the old one until `change.finish`."""
    before = load_manifest(job.out)
    into = change.folder(job.out)
    saved = Plan.load(job.out)
    left = tuple(d for d in saved.datasets if d.name in job.datasets)
    made = dataclasses.replace(saved, datasets=left)
    known = {(r.dataset, r.shard): r for r in counted.load(job.out, before)}
    olds = ((r, known[r.dataset, r.shard]) for r in receipts)
    rewritten = [
        dataclasses.replace(r, dead_letters=old.dead_letters, stages=old.stages) for r, old in olds
    ]
    by_dataset = group(made, together(job.out, before, rewritten))
    plan.write(made, into)
    add_timings(job.out, into, {dataset.name: Stages() for dataset in left}, new=False)
    manifest = assemble(into, made, describe(made, by_dataset), by_dataset)
    gone = _texts_gone(job, before, by_dataset)
    encoders = []
    for encoder in before.encoders:
        info, listed = without(job.out, encoder, gone, into, before.files)
        encoders.append(info)
        manifest.files.update(listed)
    manifest = dataclasses.replace(
        manifest,
        encoders=tuple(encoders),
        files=dict(sorted(manifest.files.items())),
        forgotten=(*before.forgotten, job.rule),
    )
    change.decide(job.out, before, manifest)


def _texts_gone(
    job: ForgetJob, before: Manifest, by_dataset: dict[str, list[Receipt]]
) -> set[bytes]:
    """The keys of texts that records had, and no record has any more."""
    current = Change.load(job.out)
    rewritten = (
        {(n, s) for n, shards in current.shards.items() for s in shards} if current else set()
    )
    had: set[str] = set()
    has: set[str] = {""}  # guidance's unconditional branch
    for dataset in before.datasets:
        for shard in range(dataset.num_shards):
            texts = _texts(job.out, dataset.name, shard, dataset.num_shards)
            if dataset.name not in by_dataset:
                had |= texts
            elif (dataset.name, shard) in rewritten:
                had |= texts
                has |= _texts(change.folder(job.out), dataset.name, shard, dataset.num_shards)
            else:
                has |= texts
    return {text_key(text) for text in had - has}


def _texts(folder: str, dataset: str, shard: int, num_shards: int) -> set[str]:
    return {row["text"] for row in _index(folder, dataset, shard, num_shards, ["text"])}
