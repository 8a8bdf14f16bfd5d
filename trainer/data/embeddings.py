"""`Embeddings`: the embedding of each action text of a table, found by the text's key."""

from __future__ import annotations

import collections
import io
import itertools
import threading
from collections.abc import Sequence

import numpy as np

from schemas import EncoderInfo, UsageError, text_key
from schemas.embedding import decode_embedding
from schemas.table import text_dir, text_file, text_keys
from trainer.data import files
from trainer.data.records import Records

EMPTY = ""

_GUESSES = 2
_REACH = 64  # rows, ten standard deviations of the last guess among 10 M


class Embeddings:
    """Text -> bfloat16 `[tokens, width]`, real tokens only. It may be shared by threads.

    Values are bfloat16 however they are stored: half the bytes to a device, where they are widened.

    Args:
        path: the table's folder or URI.
        encoder: whose embeddings, from the manifest.
        cache_bytes: how many bytes of recently used embeddings are kept.

    Raises:
        UsageError: if there are no such embeddings.
    """

    def __init__(self, path: str, encoder: EncoderInfo, *, cache_bytes: int = 96 << 20):
        self.info = encoder
        self._table = path
        self.folder = f"{path}/{text_dir(encoder.name)}"
        name = f"{path}/{text_keys(encoder.name, encoder.rows)}"
        try:
            self._keys = _load_keys(name)
        except (OSError, ValueError) as e:
            raise UsageError(
                f"{name}: the keys of the embeddings cannot be read ({e}); restore the file, or"
                " prepare the table again"
            ) from e
        if len(self._keys) != encoder.rows:
            raise UsageError(
                f"{name}: {len(self._keys)} keys but {encoder.rows} embeddings; restore the file,"
                " or prepare the table again"
            )
        self._starts = np.array([0, *itertools.accumulate(encoder.shard_rows)])
        self._records = Records(in_place=True)
        self._cache: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._cache_left = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, text: str) -> bool:
        return bool(self._find([text])[0] >= 0)

    def lookup(self, text: str) -> np.ndarray:
        """The text's embedding, read-only bfloat16 `[tokens, width]`; "" is the empty action.

        Raises:
            UsageError: if the text was not embedded, or its embedding is damaged.
        """
        return self.lookup_many([text])[0]

    def lookup_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `lookup` of each, with the files read in one go."""
        rows = self._find(texts)
        for text, row in zip(texts, rows, strict=True):
            if row < 0:
                raise UsageError(
                    f"{self.folder}: has no embedding of the text {text!r}; run `unisim embed"
                    f" --data {self._table}` with the --t5 of {self.info.name}, and --texts with a"
                    " file of texts that are not in the table"
                )
        found: dict[int, np.ndarray] = {}
        with self._lock:
            for row in set(rows.tolist()) & self._cache.keys():
                self._cache.move_to_end(row)
                found[row] = self._cache[row]
        missing = np.array(sorted(set(rows.tolist()) - found.keys()), np.int64)
        read = self._read(missing)
        with self._lock:
            for row, value in read.items():
                self._keep(row, value)
        found |= read
        return [found[row] for row in rows.tolist()]

    def _find(self, texts: Sequence[str]) -> np.ndarray:
        """int64 `[n]`: the texts' rows, -1 where there is none.

        A binary search for all at once: it touches a few pages of a file that may hold millions of
        keys, where a library's search would read it whole to bring the bytes in order.
        """
        wanted = np.array([np.frombuffer(text_key(t), ">u8") for t in texts], np.uint64)
        wanted = wanted.reshape(-1, 2)
        low, high = self._around(wanted)
        while (open_ := low < high).any():
            middle = (low + high) // 2
            less = self._less(np.where(open_, middle, 0), wanted)
            low = np.where(open_ & less, middle + 1, low)
            high = np.where(open_ & ~less, middle, high)
        at = np.minimum(low, max(len(self._keys) - 1, 0))
        same = (low < len(self._keys)) & (self._numbers(at) == wanted).all(1)
        return np.where(same, low, -1)

    def _around(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds int64 `[n]` of where the keys are: close ones, as keys are spread evenly, being
        digests. The first guess is off by about sqrt(rows) / 2 rows, and from the key that stands
        there the next one by the root of that."""
        n = len(self._keys)
        place = wanted[:, 0] / 2.0**64 * n
        rows = place.astype(np.int64)
        for _ in range(_GUESSES if n else 0):
            rows = np.clip(rows, 0, n - 1)
            found = self._numbers(rows)[:, 0] / 2.0**64 * n
            rows += np.rint(place - found).astype(np.int64)
        low, high = np.clip(rows - _REACH, 0, n), np.clip(rows + _REACH, 0, n)
        before, after = np.maximum(low - 1, 0), np.minimum(high, max(n - 1, 0))
        low = np.where((low > 0) & self._less(before, wanted), low, 0)
        high = np.where((high < n) & ~self._less(after, wanted), high, n)
        return low, high

    def _less(self, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Whether the keys of rows int64 `[n]` come before the wanted ones."""
        keys = self._numbers(rows)
        same = keys[:, 0] == wanted[:, 0]
        return (keys[:, 0] < wanted[:, 0]) | (same & (keys[:, 1] < wanted[:, 1]))

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        """Keys as two uint64 `[n, 2]`, in the order of their bytes."""
        if not len(self._keys):
            return np.zeros((len(rows), 2), np.uint64)
        return np.ascontiguousarray(self._keys[rows]).view(">u8").astype(np.uint64)

    def _read(self, rows: np.ndarray) -> dict[int, np.ndarray]:
        """The embeddings of sorted rows, file by file."""
        found = {}
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(shards).tolist():
            members = rows[shards == shard]
            counts = self.info.shard_rows
            path = f"{self._table}/{text_file(self.info.name, shard, len(counts), counts[shard])}"
            positions = (members - self._starts[shard]).tolist()
            for row, data in zip(
                members.tolist(), self._records.read(path, positions), strict=True
            ):
                try:
                    found[row] = decode_embedding(data, self.info.width, self.info.dtype)
                except ValueError as e:
                    raise UsageError(
                        f"{path}: record {row - self._starts[shard]} is damaged ({e}); run `unisim"
                        " audit` on the table"
                    ) from e
        return found

    def _keep(self, row: int, value: np.ndarray) -> None:
        if row not in self._cache:
            self._cache[row] = value
            self._cache_left -= value.nbytes
        while self._cache_left < 0 and len(self._cache) > 1:
            self._cache_left += self._cache.popitem(last=False)[1].nbytes


def _load_keys(path: str) -> np.ndarray:
    """uint8 `[n, 16]`, mapped into memory where the file is local."""
    if "://" in path:
        keys = np.load(io.BytesIO(files.read(path)), allow_pickle=False)
    else:
        keys = np.load(path, mmap_mode="r", allow_pickle=False)
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != 16:
        raise ValueError(f"it holds {keys.dtype} {keys.shape}, wanted uint8 [n, 16]")
    return keys
