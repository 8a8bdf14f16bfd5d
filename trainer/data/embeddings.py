"""`Embeddings`: the embedding of each action text of a table, found by the text's key."""

from __future__ import annotations

import bisect
import collections
import io
import itertools
import json
import threading

import ml_dtypes
import numpy as np

from schemas import EncoderInfo, UsageError, text_key
from schemas.table import text_dir, text_file
from trainer.data import files
from trainer.data.records import Records

EMPTY = ""


class Embeddings:
    """Text -> bfloat16 `[tokens, width]`, real tokens only. It may be shared by threads.

    Values stay bfloat16, as they are stored: half the bytes to a device, where they are widened.

    Args:
        path: the table's folder or URI.
        encoder: name of the folder under text/, as in the manifest.
        cache_bytes: how many bytes of recently used embeddings are kept.

    Raises:
        UsageError: if there are no such embeddings.
    """

    def __init__(self, path: str, encoder: str, *, cache_bytes: int = 256 << 20):
        self.folder = f"{path}/{text_dir(encoder)}"
        try:
            info = json.loads(files.read(f"{self.folder}/encoder.json"))
            info["shard_rows"] = tuple(info["shard_rows"])
            self.info = EncoderInfo(**info)
            self._keys = _load_keys(f"{self.folder}/keys.npy")
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise UsageError(
                f"{self.folder}: embeddings cannot be read ({e}); restore the folder, or prepare"
                " the table again"
            ) from e
        self._ends = list(itertools.accumulate(self.info.shard_rows))
        if (self._ends or [0])[-1] != len(self._keys):
            raise UsageError(
                f"{self.folder}: {len(self._keys)} keys but {sum(self.info.shard_rows)} embeddings;"
                " restore the folder, or prepare the table again"
            )
        self._paths = [
            f"{path}/{text_file(encoder, shard, len(self._ends))}"
            for shard in range(len(self._ends))
        ]
        self._records = Records()
        self._cache: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._cache_left = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, text: str) -> bool:
        return self._find(text) is not None

    def lookup(self, text: str) -> np.ndarray:
        """The text's embedding, read-only bfloat16 `[tokens, width]`; "" is the empty action.

        Raises:
            UsageError: if the text was not embedded, or its embedding is damaged.
        """
        row = self._find(text)
        if row is None:
            raise UsageError(
                f"{self.folder}: has no embedding of the text {text!r}; prepare the table again so"
                " that all its texts are embedded"
            )
        with self._lock:
            if row in self._cache:
                self._cache.move_to_end(row)
                return self._cache[row]
        value = self._read(row)
        with self._lock:
            self._keep(row, value)
        return value

    def _find(self, text: str) -> int | None:
        key = text_key(text)
        # touches a handful of pages of a file that may hold millions of keys
        row = bisect.bisect_left(range(len(self._keys)), key, key=lambda i: self._keys[i].tobytes())
        found = row < len(self._keys) and self._keys[row].tobytes() == key
        return row if found else None

    def _read(self, row: int) -> np.ndarray:
        shard = bisect.bisect_right(self._ends, row)
        position = row - (self._ends[shard - 1] if shard else 0)
        data = self._records.read(self._paths[shard], [position])[0]
        try:
            return np.frombuffer(data, ml_dtypes.bfloat16).reshape(-1, self.info.width)
        except ValueError as e:
            raise UsageError(
                f"{self._paths[shard]}: record {position} has {len(data)} bytes, wanted rows of"
                f" {self.info.width} bfloat16; run `unisim audit` on the table"
            ) from e

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
        raise ValueError(f"keys.npy holds {keys.dtype} {keys.shape}, wanted uint8 [n, 16]")
    return keys
