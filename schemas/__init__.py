"""What a record is: the chunk, its controls, its wire form, the table's layout and the rules."""

from schemas.controls import BINS, NUM_SLOTS, SLOTS, discretise, mask_of, undiscretise
from schemas.errors import DataError, UsageError, did_you_mean
from schemas.record import MAX_FRAMES, SCHEMA_VERSION, Chunk, Tier, decode, encode, text_key
from schemas.table import DatasetInfo, EncoderInfo, Manifest

__all__ = [
    "BINS",
    "MAX_FRAMES",
    "NUM_SLOTS",
    "SCHEMA_VERSION",
    "SLOTS",
    "Chunk",
    "DataError",
    "DatasetInfo",
    "EncoderInfo",
    "Manifest",
    "Tier",
    "UsageError",
    "decode",
    "did_you_mean",
    "discretise",
    "encode",
    "mask_of",
    "text_key",
    "undiscretise",
]
