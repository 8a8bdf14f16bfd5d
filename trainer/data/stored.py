"""`Stored`: what training wants of a record, read no further than asked.

A record is some 3 kB of numbers and texts around its frames, which may be 200 kB, and an example
often wants a few of them. Frames of a raw tier are read straight into the batch; what is beside
them is parsed when it is asked for. A JPEG tier's record is read whole: decoding it costs far more.
"""

from __future__ import annotations

import numpy as np

from schemas import NUM_SLOTS, DataError, Tier
from schemas.example import Example, locate, of_entries
from trainer.data.records import Record

_HEAD = 4096  # bytes, of which the features before the frames take about 3,000


class Stored:
    """One record. Everything raises DataError or ValueError if the record is damaged.

    Attributes:
        num_frames: t.
    """

    def __init__(self, record: Record, tier: Tier):
        self._record, self._size = record, (tier.height, tier.width, 3)
        self._bytes = tier.height * tier.width * 3  # of a frame
        self._raw, self._place = tier.encoding == "raw", None
        self._read_tail: Example | None = None
        if self._raw:
            head = record.read(0, _HEAD)
            try:
                self._place = place = locate(head, "frames")
                self._head = of_entries(head[slice(*place.entries)])
            except DataError:  # of another writer
                self._place = None
        if self._place is None:
            self._head = Example(record.read(0, record.size))
        self.num_frames = self._count()

    def read_frames(self, begin: int, out: np.ndarray) -> None:
        """Fills `out`, uint8 `[n, h, w, 3]` and contiguous, with the frames from `begin` on."""
        if out.shape[1:] != self._size or not 0 <= begin <= begin + len(out) <= self.num_frames:
            raise ValueError(f"frames {begin} to {begin + len(out)} of {self.num_frames}")
        if self._place is not None:
            self._record.read_into(self._place.begin + begin * self._bytes, out.data.cast("B"))
        else:
            self._decode(begin, out)

    @property
    def episode_id(self) -> bytes:
        """UTF-8."""
        return self._head.bytes_list("episode_id")[0]

    @property
    def dataset(self) -> str:
        """Its name."""
        return self._head.bytes_list("dataset")[0].decode()

    @property
    def control_bins(self) -> np.ndarray:
        """int32 `[t, S]`, read-only."""
        bins = np.frombuffer(self._head.bytes_list("control_bins")[0], "<i4")
        return bins.reshape(self.num_frames, NUM_SLOTS)

    @property
    def control_mask(self) -> np.ndarray:
        """bool `[S]`."""
        return np.array(self._head.whole_numbers("control_mask", NUM_SLOTS), bool)

    @property
    def text_key(self) -> bytes:
        """Of its action text."""
        return self._tail.bytes_list("text_key")[0]

    @property
    def text(self) -> str:
        """Its action."""
        return self._tail.bytes_list("text")[0].decode()

    @property
    def is_first(self) -> bool:
        """Whether its episode begins with it."""
        return bool(self._tail.number("is_first"))

    @property
    def is_last(self) -> bool:
        """Whether its episode ends with it."""
        return bool(self._tail.number("is_last"))

    @property
    def _tail(self) -> Example:
        if self._read_tail is None:
            place, record = self._place, self._record
            head = place is None
            self._read_tail = (
                self._head if head else of_entries(record.read(place.end, record.size))
            )
        return self._read_tail

    def _count(self) -> int:
        if not self._raw:
            return len(self._head.bytes_list("frames"))
        if self._place is not None:
            size = self._place.end - self._place.begin
        else:
            size = len(self._head.bytes_list("frames")[0])
        n, rest = divmod(size, self._bytes)
        if rest or not n:
            raise DataError(f"its frames are not of {self._size} pixels")
        return n

    def _decode(self, begin: int, out: np.ndarray) -> None:
        stored = self._head.bytes_list("frames")
        if self._raw:
            out[...] = np.frombuffer(stored[0], np.uint8).reshape(-1, *self._size)[begin:][
                : len(out)
            ]
            return
        import cv2

        for frame, data in zip(out, stored[begin:], strict=False):
            jpeg = data.startswith(b"\xff\xd8")  # no other format's decoder may see the bytes
            pixels = np.frombuffer(data, np.uint8)
            image = cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB) if jpeg else None
            if image is None or image.shape != self._size:
                raise DataError(f"a frame is no JPEG of {self._size} pixels", stage="decode")
            frame[...] = image
