"""`stage`: copies what a run needs of a table to a disk near by, and checks it on the way."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pyarrow import fs

from schemas import EncoderInfo, Manifest, Tier, UsageError
from schemas.table import INDEX, MANIFEST, text_files
from trainer.data import files

_BLOCK = 4 << 20  # bytes
_THREADS = 8
_PART = ".staging"  # the end of a file's name until it is whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What of a table is copied.

    Attributes:
        source: the table's folder or URI.
        files: name relative to it -> bytes and hex BLAKE2b-128, as the manifest lists them.
    """

    source: str
    files: dict[str, tuple[int, str]]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(size for size, _ in self.files.values())

    def by_folder(self) -> dict[str, tuple[int, int]]:
        """First folder of the names -> how many files and bytes."""
        found: dict[str, tuple[int, int]] = {}
        for name, (size, _) in self.files.items():
            folder = name.partition("/")[0]
            count, total = found.get(folder, (0, 0))
            found[folder] = (count + 1, total + size)
        return found


def wanted(source: str, manifest: Manifest, tiers: Sequence[Tier], encoder: EncoderInfo) -> Wanted:
    """The index, the frames of some tiers and one encoder's embeddings.

    A manifest that was read names nothing outside of its table (`Manifest.from_json`).
    """
    texts = set(text_files(encoder))
    folders = (f"{INDEX}/", *(f"frames-{tier.name}/" for tier in tiers))
    chosen = {
        name: (int(size), str(digest))
        for name, (size, digest) in sorted(manifest.files.items())
        if name.startswith(folders) or name in texts
    }
    return Wanted(source=source, files=chosen)


def stage(wanted: Wanted, out: Path, *, progress: Callable[[int], None] = lambda _: None) -> int:
    """Copies the files that are not there yet, and then the manifest, which commits the copy.

    The manifest's bytes are the original's, so a run may move from one to the other.

    Args:
        out: a folder of this machine.
        progress: is told of bytes as they are done, those that were there included.

    Returns:
        How many bytes were copied.

    Raises:
        UsageError: if a file is missing or not what the manifest says, or the disk is too small.
    """
    out.mkdir(parents=True, exist_ok=True)
    whole = [n for n, (size, digest) in wanted.files.items() if _is(out / n, size, digest)]
    progress(sum(wanted.files[name][0] for name in whole))
    left = {name: wanted.files[name] for name in wanted.files.keys() - set(whole)}
    needed, free = sum(size for size, _ in left.values()), shutil.disk_usage(out).free
    if needed > free:
        raise UsageError(
            f"{out}: {needed / 1e9:.1f} GB are to be copied, but {free / 1e9:.1f} GB are free;"
            " choose fewer --tier, or another --out"
        )
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        jobs = [
            pool.submit(_copy, wanted.source, name, out / name, *left[name], progress)
            for name in sorted(left)
        ]
        try:
            for job in concurrent.futures.as_completed(jobs):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    data = files.read(f"{wanted.source}/{MANIFEST}")
    part = out / (MANIFEST + _PART)
    part.write_bytes(data)
    part.replace(out / MANIFEST)
    return needed


def _is(path: Path, size: int, digest: str) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as f:
        return _digest(iter(lambda: f.read(_BLOCK), b"")) == digest


def _digest(blocks) -> str:
    found = hashlib.blake2b(digest_size=16)
    for block in blocks:
        found.update(block)
    return found.hexdigest()


def _copy(source: str, name: str, to: Path, size: int, digest: str, progress) -> None:
    filesystem, inner = files.locate(f"{source}/{name}")
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(to.name + _PART)
    try:
        found, copied = _streamed(filesystem, inner, part, size, progress)
        if (copied, found) != (size, digest):
            raise UsageError(
                f"{source}/{name}: has {copied} bytes of digest {found[:12]}, wanted {size} of"
                f" {digest[:12]}; restore it, or prepare the table again"
            )
        part.replace(to)
    except OSError as e:
        raise UsageError(
            f"{source}/{name}: cannot be copied to {to} ({e}); see that both can be reached, then"
            " give the same command again"
        ) from e
    finally:
        part.unlink(missing_ok=True)


def _streamed(
    filesystem: fs.FileSystem, inner: str, part: Path, size: int, progress
) -> tuple[str, int]:
    """Copies a file, no further than a byte beyond its size; returns its digest and length."""
    hashed, copied = hashlib.blake2b(digest_size=16), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with filesystem.open_input_stream(inner) as f, os.fdopen(os.open(part, flags), "wb") as g:
        while copied <= size and (block := f.read(min(_BLOCK, size + 1 - copied))):
            hashed.update(block)
            g.write(block)
            copied += len(block)
            progress(len(block))
    return hashed.hexdigest(), copied
