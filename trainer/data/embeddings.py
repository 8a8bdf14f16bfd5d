"""`Embeddings`: the embedding of each action text of a table, found by the text's key."""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Sequence

import numpy as np

from schemas import EncoderInfo, Manifest, UsageError, text_key
from schemas.embedding import decode_embedding
from schemas.table import text_dir, text_file
from trainer.data.keys import Keys
from trainer.data.records import Records
from trainer.data.table import Table

EMPTY = ""


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
        self._start([(path, encoder)], cache_bytes)

    @classmethod
    def of(cls, table: Table, name: str | None = None) -> Embeddings:
        """Those of a table, or of several as one. Args and raises as `Table.encoder`."""
        info = table.encoder(name)
        self = cls.__new__(cls)
        pairs = zip(table.paths, table.manifests, strict=True)
        self._start([(path, _same(manifest, info)) for path, manifest in pairs], 96 << 20)
        return self

    def _start(self, stores: list[tuple[str, EncoderInfo]], cache_bytes: int) -> None:
        self.info = stores[0][1]
        self._stores = [_Store(path, encoder) for path, encoder in stores]
        self._cache: collections.OrderedDict[bytes, np.ndarray] = collections.OrderedDict()
        self._cache_left = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(store.keys) for store in self._stores)

    def __contains__(self, text: str) -> bool:
        return any(store.keys.find([text_key(text)])[0] >= 0 for store in self._stores)

    def lookup(self, text: str) -> np.ndarray:
        """The text's embedding, read-only bfloat16 `[tokens, width]`; "" is the empty action.

        Raises:
            UsageError: if the text was not embedded, or its embedding is damaged.
        """
        return self.lookup_many([text])[0]

    def lookup_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `lookup` of each, with the files read in one go."""
        keys = [text_key(text) for text in texts]
        found = self.of_keys(keys)
        for text, key in zip(texts, keys, strict=True):
            if key not in found:
                raise self.missing(text)
        return [found[key] for key in keys]

    def of_keys(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The embeddings of texts by their keys; those that were not embedded are left out.

        Raises:
            UsageError: if one is damaged.
        """
        found, missing = {}, []
        with self._lock:
            for key in set(keys):
                if key in self._cache:
                    self._cache.move_to_end(key)
                    found[key] = self._cache[key]
                else:
                    missing.append(key)
        for store in self._stores:
            if missing:
                read = store.read(missing)
                missing = [key for key in missing if key not in read]
                with self._lock:
                    for key, value in read.items():
                        self._keep(key, value)
                found |= read
        return found

    def missing(self, text: str) -> UsageError:
        """What to say of a text that was not embedded."""
        store = self._stores[0]
        return UsageError(
            f"{store.folder}: has no embedding of the text {text!r}; run `unisim embed --data"
            f" {store.path}` with the --t5 of {self.info.name}, and --texts with a file of texts"
            " that are not in the table"
        )

    def _keep(self, key: bytes, value: np.ndarray) -> None:
        if key not in self._cache:
            self._cache[key] = value
            self._cache_left -= value.nbytes
        while self._cache_left < 0 and len(self._cache) > 1:
            self._cache_left += self._cache.popitem(last=False)[1].nbytes


class _Store:
    """One table's embeddings by one encoder."""

    def __init__(self, path: str, encoder: EncoderInfo):
        self.path, self.folder, self._encoder = path, f"{path}/{text_dir(encoder.name)}", encoder
        self.keys = Keys(path, encoder)
        self._starts = np.array([0, *itertools.accumulate(encoder.shard_rows)])
        self._records = Records(in_place=True)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Those of the keys that are there, file by file."""
        rows = self.keys.find(keys)
        by_row = {row: key for row, key in zip(rows.tolist(), keys, strict=True) if row >= 0}
        found = {}
        members = np.array(sorted(by_row), np.int64)
        shards = np.searchsorted(self._starts, members, side="right") - 1
        counts = self._encoder.shard_rows
        for shard in np.unique(shards).tolist():
            here = members[shards == shard].tolist()
            name = text_file(self._encoder.name, shard, len(counts), counts[shard])
            path, first = f"{self.path}/{name}", int(self._starts[shard])
            stored = self._records.read(path, [row - first for row in here])
            for row, data in zip(here, stored, strict=True):
                try:
                    value = decode_embedding(data, self._encoder.width, self._encoder.dtype)
                except ValueError as e:
                    raise UsageError(
                        f"{path}: record {row - first} is damaged ({e}); run `unisim audit` on the"
                        " table"
                    ) from e
                found[by_row[row]] = value
        return found


def _same(manifest: Manifest, info: EncoderInfo) -> EncoderInfo:
    """The manifest's own name for an encoder that it has."""
    return next(encoder for encoder in manifest.encoders if encoder.same_rows(info))
