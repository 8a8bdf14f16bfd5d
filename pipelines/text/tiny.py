"""`tiny-random`: a T5 directory that the project makes itself, for when none is given.

It is not a language model: the weights are random, the vocabulary is written here by hand. Its
bytes are the same on every machine, so they may stand in golden digests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from pipelines.text import vocabulary
from pipelines.text.config import RELATIVE_BIAS, T5Config
from pipelines.text.directory import CONFIG, VOCABULARY
from pipelines.text.weights import WEIGHTS
from schemas.table import dump_json

_SEED = 20240507

# Words of robot and household actions, the likeliest first. A word is one piece, so "left" and
# "right" differ in a whole token.
_WORDS = """
the a to of and from in on into with it up down left right forward backward back out off open
close
pick place push pull move put take turn slide lift drop grasp hold release reach rotate pour wipe
fold unfold stack insert remove stir cut peel wash rinse dry hang press touch poke point hit throw
catch roll spin tilt flip shake squeeze tear break bend twist cover uncover lower raise go walk
step
stop wait stay observe drive set look see use get give let make fill empty clean cook bake fry mix
add plug unplug something somewhere someone object objects thing things one two three four five
part piece
red green blue yellow orange purple black white brown gray pink silver gold
block blocks cube star moon hexagon pentagon triangle circle square shape board table
drawer door cabinet fridge oven microwave stove sink tap faucet counter shelf rack basket box bin
cup mug bowl plate pan pot lid spoon fork knife spatula towel cloth sponge bottle can jar bag
glass
apple banana carrot potato tomato onion egg bread cheese meat rice corn lemon pepper food water
toy book pen phone key paper cable button switch lamp chair couch sofa bed floor wall window
room kitchen bathroom bedroom toilet tv plant picture house stairs hallway
arm hand finger gripper robot base camera person man woman people cat dog car
top bottom side middle center front edge corner end inside outside near next between behind under
over above below around along across through against towards toward away apart together
meters meter degrees degree percent rad seconds cm m x y z dx dy dz roll pitch yaw joint
joints delta is are be that this so not no at by for then while until again all some other same
different
small large big little long short high low upright slightly slowly quickly
photo image video view standing sitting lying
"""
_ENDINGS = ["ing", "ed", "er", "es", "ly"]
_NUMBERS = ["▁+0.", "▁-0.", "▁+", "▁-", *(f"{i:02d}" for i in range(100))]
_SYMBOLS = [chr(c) for c in range(ord("!"), ord("~") + 1)] + list("Δ°±×µ–—‘’“”…")


def write_tiny(directory: Path) -> None:
    """Writes config.json, model.safetensors and spiece.model; equal bytes every time."""
    directory.mkdir(parents=True, exist_ok=True)
    pieces = spiece()
    settings = _settings(vocabulary.count_pieces(pieces))
    text = dump_json(settings)
    config = T5Config.from_json(text)
    weights = {name: _tensor(name, shape, config) for name, shape in config.tensors().items()}
    (directory / CONFIG).write_text(text, encoding="utf-8")
    (directory / VOCABULARY).write_bytes(pieces)
    (directory / WEIGHTS).write_bytes(safetensors.numpy.save(weights))


def _settings(pieces: int) -> dict:
    return {
        "architectures": ["T5EncoderModel"],
        "d_ff": 128,
        "d_kv": 16,
        "d_model": 64,
        "dense_act_fn": "gelu_new",
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-6,
        "model_type": "t5",
        "num_heads": 4,
        "num_layers": 2,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "vocab_size": pieces,
    }


def spiece() -> bytes:
    """A unigram SentencePiece model. Scores are sums of powers of two, exact in float32."""
    model = vocabulary.ModelProto()

    def add(piece: str, score: float, kind: int = vocabulary.NORMAL) -> None:
        model.pieces.add(piece=piece, score=score, type=kind)

    add("<pad>", 0, vocabulary.CONTROL)
    add("</s>", 0, vocabulary.CONTROL)
    add("<unk>", 0, vocabulary.UNKNOWN)
    words = dict.fromkeys(vocabulary.SPACE + word for word in _WORDS.split())
    for rank, piece in enumerate(words):
        add(piece, -4 - rank / 256)
    for piece in (*_ENDINGS, *_NUMBERS):
        add(piece, -8)
    add(vocabulary.SPACE, -8)
    for symbol in _SYMBOLS:
        add(symbol, -10)
    spec = model.trainer_spec
    spec.model_type, spec.vocab_size = vocabulary.UNIGRAM, len(model.pieces)
    spec.pad_id, spec.eos_id, spec.unk_id, spec.bos_id = 0, 1, 2, -1
    normalizer = model.normalizer_spec
    normalizer.name, normalizer.add_dummy_prefix = "identity", True
    normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = True
    return model.SerializeToString(deterministic=True)


def _tensor(name: str, shape: tuple[int, ...], config: T5Config) -> np.ndarray:
    """Random values as T5's own initialisation has them; norms are one."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return _normal(name, shape) * np.float32(deviation_of(name, shape, config))


def deviation_of(name: str, shape: tuple[int, ...], config: T5Config) -> float:
    """The standard deviation that a matrix has in T5's own initialisation."""
    if name == "shared.weight":
        return 1.0
    if name == RELATIVE_BIAS:
        return config.d_model**-0.5
    if name.endswith("SelfAttention.q.weight"):
        return (config.d_model * config.d_kv) ** -0.5
    return shape[1] ** -0.5  # by the width that goes in


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Nearly normal float32 values of variance one, by integer arithmetic on a fixed bit stream.

    numpy promises the bits of a bit generator for ever, but not those of `Generator.normal`, whose
    tails also go through the machine's own logarithm.
    """
    seed = np.random.SeedSequence([_SEED, *name.encode()])
    bits = np.asarray(np.random.PCG64(seed).random_raw(int(np.prod(shape))))
    # the sum of four uniform 16-bit numbers has mean 2 * 65535 and variance (2**32 - 1) / 3
    quarters = [(bits >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)]
    total = np.stack(quarters).astype(np.int64).sum(axis=0)
    centred = (total - 2 * 65535).astype(np.float32)
    return (centred * np.float32((3 / (2**32 - 1)) ** 0.5)).reshape(shape)
