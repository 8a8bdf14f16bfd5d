"""Loaders of other libraries, in a Python of their own.

`timing.Peer` runs it; it imports nothing of the project. Requests and answers are lines of JSON:

    {"library": "webdataset", "part": "windows", "folder": "…", "batch": 36, "workers": 2}
    {"bytes": 7077888}
    {"library": "webdataset", "workers": 2, "batches": 50}
    {"seconds": 0.9}

The first opens a dataset that `write` made of `clips.npz` in the folder, and takes a batch; the
second takes so many. What a batch holds is what the part says: `windows` 16 frames each, `base`
what a base-tier example has, with embedding and controls, `jpeg` 16 frames each that are decoded.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_SHARDS = 16
_BUFFER = 1000  # samples that webdataset shuffles among
_EPISODE = 10  # clips, where a library keeps episodes and cuts its clips from them


def _samples(folder: Path, part: str) -> Iterator[dict[str, np.ndarray | list[bytes]]]:
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    if part == "jpeg":
        sizes = arrays.pop("sizes")
        ends = np.cumsum(sizes.reshape(-1)).reshape(sizes.shape)
        blob = arrays.pop("jpegs")
        for row, length in zip(ends, sizes, strict=True):
            yield {"frames": [bytes(blob[e - n : e]) for e, n in zip(row, length, strict=True)]}
        return
    for i in range(len(arrays["frames"])):
        yield {name: np.ascontiguousarray(array[i]) for name, array in arrays.items()}


def write(library: str, folder: Path, part: str) -> Path:
    """The clips in the library's own form, once."""
    out = folder / library
    if out.exists():
        return out
    samples = list(_samples(folder, part))
    if library == "mosaicml-streaming":
        streaming: Any = importlib.import_module("streaming")
        arrays = {name: np.asarray(value) for name, value in samples[0].items()}
        kinds = {
            name: f"ndarray:{value.dtype}:{','.join(map(str, value.shape))}"
            for name, value in arrays.items()
        }
        with streaming.MDSWriter(out=str(out), columns=kinds, size_limit=1 << 27) as writer:
            for sample in samples:
                writer.write(sample)
        return out
    if library == "stable-worldmodel":
        _write_episodes(out, samples)
        return out
    webdataset: Any = importlib.import_module("webdataset")
    out.mkdir()
    for shard in range(_SHARDS):
        with webdataset.TarWriter(str(out / f"{shard:04d}.tar")) as writer:
            for i in range(shard, len(samples), _SHARDS):
                writer.write({"__key__": f"{i:08d}", **_members(samples[i])})
    return out


def _write_episodes(out: Path, samples: list[dict]) -> None:
    hdf5: Any = importlib.import_module("stable_worldmodel.data.formats.hdf5")
    with hdf5.HDF5Writer(out / "clips.h5") as writer:
        for i in range(0, len(samples), _EPISODE):
            clips = [sample["frames"] for sample in samples[i : i + _EPISODE]]
            writer.write_episode({"pixels": np.concatenate(clips)})


def _members(sample: dict) -> dict[str, bytes]:
    """A sample's files in a tar: arrays as their bytes, the fastest to read."""
    found = {}
    for name, value in sample.items():
        if isinstance(value, list):
            lengths = np.array([len(data) for data in value], np.int32).tobytes()
            found[f"{name}.bin"] = lengths + b"".join(value)
        else:
            found[f"{name}.bin"] = value.tobytes()
    return found


class Loaded:
    """A loader that has been opened, and goes on for ever."""

    def __init__(self, library: str, folder: Path, part: str, batch: int, workers: int):
        self._part = part
        out = write(library, folder, part)
        example = next(_samples(folder, part))
        arrays = {n: v for n, v in example.items() if isinstance(v, np.ndarray)}
        self._shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        open_ = {
            "mosaicml-streaming": self._mosaic,
            "webdataset": self._webdataset,
            "stable-worldmodel": self._worldmodel,
        }
        self._loader = open_[library](out, batch, workers)
        self._batches = itertools.chain.from_iterable(self._loader for _ in itertools.count())

    def take(self, count: int) -> dict[str, float]:
        start, size = time.perf_counter(), 0
        for _ in range(count):
            size = sum(np.asarray(value).nbytes for value in next(self._batches).values())
        return {"seconds": time.perf_counter() - start, "bytes": size}

    def _mosaic(self, out: Path, batch: int, workers: int):
        streaming: Any = importlib.import_module("streaming")
        data: Any = importlib.import_module("torch.utils.data")
        dataset = streaming.StreamingDataset(local=str(out), shuffle=True, batch_size=batch)
        return data.DataLoader(
            dataset,
            batch_size=batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
            collate_fn=_stacked,
        )

    def _worldmodel(self, out: Path, batch: int, workers: int):
        hdf5: Any = importlib.import_module("stable_worldmodel.data.formats.hdf5")
        data: Any = importlib.import_module("torch.utils.data")
        return data.DataLoader(
            hdf5.HDF5Dataset(path=out / "clips.h5", num_steps=16),
            batch_size=batch,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
        )

    def _webdataset(self, out: Path, batch: int, workers: int):
        webdataset: Any = importlib.import_module("webdataset")
        urls = sorted(map(str, out.glob("*.tar")))
        dataset = (
            webdataset.WebDataset(urls, shardshuffle=len(urls), resampled=False)
            .shuffle(_BUFFER)
            .map(self._decoded)
            .batched(batch, partial=False, collation_fn=_stacked)
        )
        return webdataset.WebLoader(
            dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
        )

    def _decoded(self, sample: dict[str, Any]) -> dict[str, np.ndarray]:
        if self._part == "jpeg":
            return {"frames": _pictures(sample["frames.bin"])}
        return {
            name: np.frombuffer(sample[f"{name}.bin"], dtype).reshape(shape)
            for name, (dtype, shape) in self._shapes.items()
        }


def _pictures(data: bytes) -> np.ndarray:
    cv2: Any = importlib.import_module("cv2")
    lengths = np.frombuffer(data, np.int32, 16)
    ends = 64 + np.cumsum(lengths)
    images = [
        cv2.imdecode(np.frombuffer(data, np.uint8, n, end - n), cv2.IMREAD_COLOR_RGB)
        for end, n in zip(ends, lengths, strict=True)
    ]
    return np.stack(images)


def _stacked(samples: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """As torch's own collation, without its copies through lists."""
    torch: Any = importlib.import_module("torch")
    return {
        name: torch.from_numpy(np.stack([sample[name] for sample in samples]))
        for name in samples[0]
        if not name.startswith("__")
    }


def main() -> None:
    importlib.import_module("cv2").setNumThreads(1)
    importlib.import_module("torch").set_num_threads(1)
    open_: dict[tuple, Loaded] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = (request["library"], request["workers"])
        if "part" in request:
            folder = Path(request["folder"])
            open_[name] = Loaded(name[0], folder, request["part"], request["batch"], name[1])
            answer = open_[name].take(1)
        elif "close" in request:
            del open_[name]
            answer = {}
        else:
            answer = open_[name].take(request["batches"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
