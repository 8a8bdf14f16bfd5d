"""A SentencePiece vocabulary's own message, read and written without TensorFlow.

Only the fields used here are declared; the field numbers are those of `sentencepiece_model.proto`.
The message types stand in a descriptor pool of their own, as in `schemas.example`.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from pipelines.text.config import EOS_ID, PAD_ID
from schemas import UsageError

NORMAL, UNKNOWN, CONTROL = 1, 2, 3
UNIGRAM = 1
SPACE = "▁"  # how SentencePiece writes a space

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "open_unisim.sentencepiece"
# message -> fields: (name, number, type, default)
_FIELDS = {
    "Piece": [("piece", 1, "STRING", ""), ("score", 2, "FLOAT", "0"), ("type", 3, "INT32", "1")],
    "TrainerSpec": [
        ("model_type", 3, "INT32", "1"),
        ("vocab_size", 4, "INT32", "8000"),
        ("unk_id", 40, "INT32", "0"),
        ("bos_id", 41, "INT32", "1"),
        ("eos_id", 42, "INT32", "2"),
        ("pad_id", 43, "INT32", "-1"),
    ],
    "NormalizerSpec": [
        ("name", 1, "STRING", ""),
        ("add_dummy_prefix", 3, "BOOL", "true"),
        ("remove_extra_whitespaces", 4, "BOOL", "true"),
        ("escape_whitespaces", 5, "BOOL", "true"),
    ],
}


def _model_proto() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="open_unisim/sentencepiece.proto", package=_PACKAGE, syntax="proto2"
    )
    for message, fields in _FIELDS.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, default in fields:
            declared.field.add(
                name=name,
                number=number,
                type=getattr(_FIELD, f"TYPE_{kind}"),
                label=_FIELD.LABEL_OPTIONAL,
                default_value=default,
            )
    model = file.message_type.add(name="ModelProto")
    for name, number, message in (
        ("pieces", 1, "Piece"),
        ("trainer_spec", 2, "TrainerSpec"),
        ("normalizer_spec", 3, "NormalizerSpec"),
    ):
        model.field.add(
            name=name,
            number=number,
            type=_FIELD.TYPE_MESSAGE,
            type_name=f".{_PACKAGE}.{message}",
            label=_FIELD.LABEL_REPEATED if name == "pieces" else _FIELD.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto"))


ModelProto: Any = _model_proto()


def count_pieces(spiece: bytes, path: str = "spiece.model") -> int:
    """The number of pieces of a T5 vocabulary; `path` is what errors call it.

    Raises:
        UsageError: if the bytes are not a SentencePiece model, or not one with T5's padding and
            end-of-sequence pieces.
    """
    try:
        model = ModelProto.FromString(spiece)
    except (DecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: not a SentencePiece model ({e}); restore the file") from e
    if not model.pieces or not model.HasField("trainer_spec"):
        raise UsageError(f"{path}: not a SentencePiece model (no pieces); restore the file")
    found = model.trainer_spec.pad_id, model.trainer_spec.eos_id
    if found != (PAD_ID, EOS_ID):
        raise UsageError(
            f"{path}: the padding and end pieces are {found[0]} and {found[1]}, T5 has {PAD_ID} and"
            f" {EOS_ID}; give the vocabulary that belongs to the model"
        )
    return len(model.pieces)
