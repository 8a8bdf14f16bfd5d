"""Damaged raw data through the whole of plan, prepare and audit, by the thousand.

    python -m tests.fuzz.harness --runs 2000

Each run takes the clean fake of a source, damages one file, and makes a table of it in this
process, every other time in several shards. Wanted: a usage error, or a table that the audit finds
clean in which every episode stands unchanged that does not depend on the damaged file. Anything
else, a run of more than 10 seconds included, is a failure and is printed with the command that
repeats it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import io
import multiprocessing
import os
import resource
import shutil
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipelines import commit, plan, prepare, sources
from pipelines.audit import Opened, audit
from pipelines.job import Job
from pipelines.ops import tfrecord
from pipelines.text import TextEncoder, embed_shard
from pipelines.text.encoder import check_directory
from pipelines.write import write_shard
from schemas import Tier, UsageError
from schemas.table import MANIFEST
from tests.fuzz.mutations import mutate

LIMIT = 10.0  # seconds
_TIERS = [Tier(24, 40, "raw")]
_encoder: TextEncoder | None = None

Episodes = dict[str, tuple]


def make_table(name: str, path: Path, out: Path, shard_mb: float = plan.SHARD_MB) -> str:
    """Plan, write, embed and commit as `unisim prepare` does, without a runner.

    Returns:
        "refused" at plan time, "nothing" if no episode is left, else "table".
    """
    global _encoder
    try:
        made = plan.make([(name, str(path))], tiers=_TIERS, fps={}, shard_mb=shard_mb)
    except UsageError as e:
        assert "\n" not in str(e), f"an error of several lines: {e}"
        return "refused"
    plan.save(made, str(out))
    info = check_directory(None)
    job = Job(out=str(out), t5=None, encoder=info, error_budget=1.0)
    receipts = [write_shard(task) for task in prepare.tasks(made, str(out))]
    _encoder = _encoder or TextEncoder.load(None, info)
    texts = ["", *(text for receipt in receipts for text in receipt.texts)]
    encoder, target = _encoder, job.target()
    commit.commit(job, receipts, [embed_shard(target, 0, texts, lambda: encoder)])
    return "table" if (out / MANIFEST).exists() else "nothing"


def episodes_of(out: Path) -> Episodes:
    """Every view of a table -> what its records are."""
    found: dict[str, list] = collections.defaultdict(list)
    if (out / MANIFEST).exists():
        for row in pq.read_table(out / "index.parquet").to_pylist():
            key = (row["step"], row["text"], tuple(row["digests"]))
            found[row["episode_id"]].append((key, row["source_range"]))
    return {name: tuple(rows) for name, rows in found.items()}


def corpora() -> list[str]:
    """Every fake of every source: "bridge", and for its other releases "bridge.fake_raw" …"""
    found = []
    for name in sources.names():
        fakes = sorted(x for x in vars(sources.get(name)) if x.startswith("fake_"))
        found += [name, *(f"{name}.{fake}" for fake in fakes)]
    return found


class Corpus:
    """A clean fake, its table, and which episodes need which file.

    Args:
        corpus: as `corpora` names it.
    """

    def __init__(self, corpus: str, root: Path):
        name, _, fake = corpus.partition(".")
        self.name, self.root = name, root / corpus
        (self.root / "raw").mkdir(parents=True)
        make = getattr(sources.get(name), fake or "fake")
        self.path = make(self.root / "raw", 0, traps=False)
        self.files = [p for p in sorted((self.root / "raw").rglob("*")) if p.is_file()]
        assert make_table(name, self.path, self.root / "table") == "table", name
        self.clean = episodes_of(self.root / "table")
        self.independent: dict[Path, Episodes] = {}

    @contextlib.contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy of the raw files to damage; its root."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            raw = Path(folder) / "raw"
            shutil.copytree(self.root / "raw", raw)
            yield raw

    def survivors(self, file: Path) -> Episodes:
        """The episodes that are the same without the file, so its damage may not touch them."""
        if file not in self.independent:
            with self.copy() as raw:
                (raw / file.relative_to(self.root / "raw")).unlink()
                out = raw.parent / "table"
                make_table(self.name, raw / self.path.relative_to(self.root / "raw"), out)
                there = episodes_of(out)
            same = {n: rows for n, rows in self.clean.items() if there.get(n) == rows}
            self.independent[file] = same
        return self.independent[file]

    def untouched(self, file: Path, data: bytes, damaged: bytes) -> Episodes:
        """The episodes inside a TFRecord or tar whose own bytes are whole and can be found: all
        before the damage, and those after it if no header was touched."""
        spans = self._spans(file, data)
        n = min(len(data), len(damaged))
        different = np.frombuffer(data[:n], np.uint8) != np.frombuffer(damaged[:n], np.uint8)
        changed = np.flatnonzero(different)
        if len(data) != len(damaged) or not len(changed):
            changed = np.append(changed, n)
        within = np.zeros(len(changed), bool)
        for pieces in spans.values():
            for a, b in pieces:
                within |= (changed >= a) & (changed < b)
        found = len(data) == len(damaged) and bool(within.all())
        return {
            name: self.clean[name]
            for name, pieces in spans.items()
            if all(
                b <= changed[0] or (found and not ((changed >= a) & (changed < b)).any())
                for a, b in pieces
            )
        }

    def _spans(self, file: Path, data: bytes) -> dict[str, list[tuple[int, int]]]:
        """Episode -> the byte ranges of its content in a container, headers left out."""
        spans: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
        if ".tfrecord" in file.name:
            shard = f"-{file.name.split('.tfrecord-')[1][:5]}-"
            for name, rows in self.clean.items():
                if shard in name:
                    a, b = map(int, rows[0][1].removeprefix("bytes ").split("-"))
                    spans[name].append((a + tfrecord.HEADER_BYTES, b))
        elif file.suffix == ".tar":
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for info in tar:
                    key = info.name.rsplit(".", 1)[0]
                    if key in self.clean:
                        spans[key].append((info.offset_data, info.offset_data + info.size))
        return spans


def run(corpus: Corpus, number: int, seed: int) -> tuple[str, str, int]:
    """One damaged corpus. Returns (how it was damaged, outcome, neighbours found unchanged)."""
    rng = np.random.default_rng((seed, number))
    kinds = collections.defaultdict(list)
    for file in corpus.files:
        kinds[file.name.split(".", 1)[-1][:9]].append(file)
    group = kinds[sorted(kinds)[rng.integers(len(kinds))]]
    file = group[rng.integers(len(group))]
    data = file.read_bytes()
    how, damaged = mutate(file.name, data, rng)
    neighbours = corpus.survivors(file) | corpus.untouched(file, data, damaged)
    with corpus.copy() as raw:
        (raw / file.relative_to(corpus.root / "raw")).write_bytes(damaged)
        out = raw.parent / "table"
        begin = time.monotonic()
        path = raw / corpus.path.relative_to(corpus.root / "raw")
        size = sum(file.stat().st_size for file in corpus.files)
        outcome = make_table(corpus.name, path, out, size / 4e6 if number % 2 else plan.SHARD_MB)
        seconds = time.monotonic() - begin
        assert seconds < LIMIT, f"{seconds:.1f} s"
        if outcome == "table":
            findings = list(audit(Opened(str(out))))
            assert not findings, f"the audit found {findings[0]}"
        there = episodes_of(out)
    if outcome == "refused":
        lost = set()  # said in one line at plan time: nothing was begun
    else:
        lost = {name for name, rows in neighbours.items() if there.get(name) != rows}
    assert not lost, f"{sorted(lost)} lost or changed by {how} of {file.name}"
    return how, outcome, len(neighbours) if outcome != "refused" else 0


Result = tuple[int, str, str, int]


def work(name: str, numbers: list[int], seed: int, root: str) -> list[Result]:
    """Runs of one source in this process: (number, how or "FAILED", outcome, neighbours)."""
    corpus = Corpus(name, Path(root))
    results: list[Result] = []
    for number in numbers:
        # a hang inside a library cannot be interrupted: the process dies and says where
        faulthandler.dump_traceback_later(6 * LIMIT, exit=True)
        try:
            results.append((number, *run(corpus, number, seed)))
        except Exception:  # the very thing looked for
            results.append((number, "FAILED", traceback.format_exc(limit=-6), 0))
        faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"fuzz: {name}: {len(numbers)} runs, peak {peak:.0f} MB", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--source", action="append", help="only these, as `bridge` or `bridge.fake_raw`"
    )
    parser.add_argument("--run", type=int, help="only this run of --source")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    flags = parser.parse_args()
    names = flags.source or corpora()
    shares = {name: list(range(i, flags.runs, len(names))) for i, name in enumerate(names)}
    if flags.run is not None:
        shares = {names[0]: [flags.run]}
    begin = time.monotonic()
    results = {}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as root,
        ProcessPoolExecutor(flags.workers, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        jobs = {pool.submit(work, n, s, flags.seed, root): n for n, s in shares.items()}
        for job in as_completed(jobs):
            results[jobs[job]] = job.result()
    return _report(results, flags.seed, time.monotonic() - begin)


def _report(results: dict[str, list[Result]], seed: int, seconds: float) -> int:
    rows = [row for found in results.values() for row in found]
    failed = [(name, *r) for name, found in results.items() for r in found if r[1] == "FAILED"]
    for name, number, _, text, _ in failed[:20]:
        again = f"python -m tests.fuzz.harness --source {name} --run {number} --seed {seed}"
        print(f"\n{name} run {number}: repeat with `{again}`\n{text}")
    print(f"{'source':<24}{'runs':>6}{'table':>7}{'nothing':>9}{'refused':>9}{'failed':>8}")
    for name, found in sorted(results.items()):
        count = collections.Counter("failed" if r[1] == "FAILED" else r[2] for r in found)
        parts = f"{count['table']:>7}{count['nothing']:>9}{count['refused']:>9}{count['failed']:>8}"
        print(f"{name:<24}{len(found):>6}{parts}")
    neighbours = sum(row[3] for row in rows)
    print(
        f"{len(rows):,} runs in {seconds:,.0f} s, {len(failed)} failed;"
        f" {neighbours:,} good neighbours found unchanged"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
