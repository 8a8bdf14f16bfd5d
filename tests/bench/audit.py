"""The audit: records a second on one core, memory over 100,000 records, a report of 1 M index rows,
a search in them; and beside two peers. Run by `make bench BENCH=audit`."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files
from pipelines.audit import Opened, Whole, audit, scope_of
from pipelines.audit.viewer.catalog import Catalog, Query
from schemas import NUM_SLOTS, Chunk, Manifest, Tier, mask_of
from schemas.table import MANIFEST, frames_file, index_file
from schemas.verdicts import VERDICT_SCHEMA
from tests.bench import audit_peers
from tests.bench.timing import HEADER, Row, line, progress
from tests.command import ROOT
from trainer.data.fake import fake_chunk, write_chunks

_SLOTS = ("ee_dx", "ee_dy", "ee_dz", "ee_droll", "ee_dpitch", "ee_dyaw")
_ROUNDS = 3


def episode(number: int, tier: Tier, frames: int = 16, records: int = 4) -> list[Chunk]:
    """Pictures of coarse noise, another in every frame."""
    rng = np.random.default_rng(number)
    chunks = []
    for step in range(records):
        coarse = rng.integers(0, 256, (frames, 6, 10, 3), np.uint8)
        size = (tier.width, tier.height)
        pixels = np.stack([cv2.resize(c, size, interpolation=cv2.INTER_CUBIC) for c in coarse])
        controls = np.zeros((frames, NUM_SLOTS), np.float32)
        controls[1:, :6] = rng.normal(0, 0.01, (frames - 1, 6))
        jpegs = (cv2.imencode(".jpg", p[..., ::-1])[1].tobytes() for p in pixels)
        chunk = fake_chunk(
            dataset="d",
            episode_id=f"episode-{number:06d}",
            step=step,
            split="train",
            frames=pixels if tier.encoding == "raw" else tuple(jpegs),
            times=((frames * step + np.arange(frames)) / 5).astype(np.float32),
            fps=5.0,
            text=f"text {number % 200}",
            controls=controls,
            control_mask=mask_of(_SLOTS),
            is_last=step == records - 1,
        )
        chunks.append(chunk)
    return chunks


def table(out: Path, tier: Tier, *, episodes: int, shards: int, frames: int = 16) -> Path:
    """A table of `shards` equal shards, whose frames are one file, linked."""
    if (out / MANIFEST).exists():
        return out
    chunks = [episode(i, tier, frames) for i in range(episodes)]
    write_chunks(out, {"d": {tier: chunks}}, shards=1, width=64)
    manifest = Manifest.from_json((out / MANIFEST).read_text())
    (d,) = manifest.datasets
    listed = dict(manifest.files)
    for split in d.shard_rows:
        old = frames_file(tier, d.name, d.version, split, 0, 1)
        for shard in range(shards):
            new = frames_file(tier, d.name, d.version, split, shard, shards)
            os.link(out / old, out / new)
            listed[new] = listed[old]
        (out / old).unlink()
        del listed[old]
    old = index_file(d.name, 0, 1)
    rows = pq.read_table(out / old)
    at, of = (rows.schema.get_field_index(name) for name in ("shard", "num_shards"))
    for shard in range(shards):
        new = index_file(d.name, shard, shards)
        numbers = [pa.array(np.full(len(rows), n, np.int32)) for n in (shard, shards)]
        part = rows.set_column(at, "shard", numbers[0]).set_column(of, "num_shards", numbers[1])
        pq.write_table(part, out / new)
        listed[new] = files.digest(str(out / new))
    (out / old).unlink()
    del listed[old]
    more = {name: getattr(d, name) * shards for name in ("episodes", "views", "chunks", "frames")}
    split_rows = {split: each * shards for split, each in d.shard_rows.items()}
    d = dataclasses.replace(d, shard_rows=split_rows, num_shards=shards, **more)
    manifest = dataclasses.replace(manifest, datasets=[d], files=dict(sorted(listed.items())))
    (out / MANIFEST).write_text(manifest.to_json())
    return out


def rate(out: Path, families: tuple[str, ...]) -> float:
    """Records a second, in this process."""
    found = []
    for _ in range(_ROUNDS):
        opened = Opened(str(out))
        scope = scope_of(opened.out, families)
        whole = Whole(opened, scope)
        begin = time.perf_counter()
        assert not list(audit(opened, scope=scope, whole=whole))
        found.append(whole.read / (time.perf_counter() - begin))
    return statistics.median(found)


def watched(*flags: object) -> tuple[float, list[tuple[float, float]]]:
    """Seconds that `unisim audit` takes, and (seconds, megabytes of the largest of its processes)
    while it runs."""
    command = [sys.executable, "-m", "infra.cli", "audit", *map(str, flags)]
    seen: list[tuple[float, float]] = []
    begin = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.5):
                sizes = [resident(pid) for pid in family(process.pid)]
                seen.append((time.perf_counter() - begin, max(sizes, default=0.0)))

        thread = threading.Thread(target=watch)
        thread.start()
        code = process.wait()
        ended.set()
        thread.join()
    if code:
        raise SystemExit(f"{command}: exit {code}")
    return time.perf_counter() - begin, seen


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in family(int(child)))]


def resident(pid: int) -> float:
    """Megabytes; 0 of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [row.split()[1] for row in status.splitlines() if row.startswith("VmRSS:")]
    return int(found[0]) * 1024 / 1e6 if found else 0.0


def search(out: Path) -> float:
    """Milliseconds of the slowest of some questions."""
    catalog = Catalog(Opened(str(out)))
    none = VERDICT_SCHEMA.empty_table()
    taken = []
    for query in (
        Query(text="text 17"),
        Query(text="nothing has this"),
        Query(source="d", split="train", text="19"),
        Query(frames=(1, 3)),
        Query(verdict="none"),
    ):
        begin = time.perf_counter()
        catalog.search(query, none, 0, 25)
        taken.append(1000 * (time.perf_counter() - begin))
        progress(f"search: {query}: {taken[-1]:.0f} ms")
    return max(taken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where tables are kept")
    parser.add_argument("--doctor", required=True, help="a Python with lerobot-doctor")
    parser.add_argument("--tfdv", required=True, help="a Python with TensorFlow Data Validation")
    flags = parser.parse_args()
    folder = flags.folder
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    cv2.setNumThreads(1)
    rows = list(_rates(folder))
    os.sched_setaffinity(0, cores)
    rows += list(_large(folder))
    rows += list(audit_peers.rows(folder / "peers", flags.doctor, flags.tfdv))
    print(f"{datetime.date.today()}, {len(cores)} cores")
    for row in (HEADER, *rows):
        print(line(row))
    return 0


def _rates(folder: Path):
    base = table(folder / "base", Tier(24, 40, "raw"), episodes=625, shards=4)
    found = rate(base, ("integrity", "schema"))
    yield Row("24x40 raw, integrity + schema (wanted 3000/s)", "-", f"{found:.0f}/s", "", "")
    found = rate(base, ("content",))
    yield Row("24x40 raw, content", "-", f"{found:.0f}/s", "", "")
    fine = table(folder / "fine", Tier(192, 320, "jpeg"), episodes=80, shards=2)
    found = rate(fine, ("content",))
    yield Row("192x320 JPEG, content (wanted 60/s)", "-", f"{found:.0f}/s", "", "")


def _large(folder: Path):
    large = table(folder / "100k", Tier(24, 40, "raw"), episodes=625, shards=40)
    seconds, seen = watched(large)
    half = [mb for at, mb in seen if at < seconds / 2]
    text = f"{max(half):.0f} -> {max(mb for _, mb in seen):.0f} MB"
    yield Row("all checks of 100,000 records", "-", f"{seconds:.0f} s", "", "", text)
    huge = table(folder / "1m", Tier(8, 16, "raw"), episodes=2500, shards=100, frames=2)
    flags = ("--sample", "1%", "--report", folder / "report.html")
    seconds, seen = watched(huge, *flags)
    text = f"{max(mb for _, mb in seen):.0f} MB"
    yield Row("report of 1 M rows, 1% read (wanted 60 s)", "-", f"{seconds:.0f} s", "", "", text)
    yield Row("search in 1 M rows (wanted 300 ms)", "-", f"{search(huge):.0f} ms", "", "")


if __name__ == "__main__":
    sys.exit(main())
