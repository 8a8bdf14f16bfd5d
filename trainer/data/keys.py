"""`Keys`: the sorted keys of an encoder's embeddings, searched without reading them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from schemas import EncoderInfo, UsageError
from schemas.table import text_keys
from trainer.data import files

_GUESSES = 2
_REACH = 64  # rows, ten standard deviations of the last guess among 10 M


class Keys:
    """A table's keys for one encoder, mapped into memory where the file is local.

    Args:
        path: the table's folder or URI.
        encoder: from its manifest.

    Raises:
        UsageError: if they are not there, or not as many as the manifest says.
    """

    def __init__(self, path: str, encoder: EncoderInfo):
        name = f"{path}/{text_keys(encoder.name, encoder.rows)}"
        try:
            self._keys = _load(name)
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

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """int64 `[n]`: the rows of keys of 16 bytes each, -1 where there is none.

        A binary search for all at once: it touches a few pages of a file that may hold millions of
        keys, where a library's search would read it whole to bring the bytes in order.
        """
        wanted = np.frombuffer(b"".join(keys), ">u8").astype(np.uint64).reshape(-1, 2)
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


def _load(path: str) -> np.ndarray:
    """uint8 `[n, 16]`, mapped into memory where the file is local."""
    if "://" in path:
        keys = np.load(io.BytesIO(files.read(path)), allow_pickle=False)
    else:
        keys = np.load(path, mmap_mode="r", allow_pickle=False)
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != 16:
        raise ValueError(f"it holds {keys.dtype} {keys.shape}, wanted uint8 [n, 16]")
    return keys
