"""tensorflow-datasets reading RLDS and TensorFlow resizing, in a process of their own.

`timing.Peer` runs it. Requests and answers are lines of JSON:

    {"library": "describe", "folder": "bridge_dataset/1.0.0"}
    {"seconds": 0.0}
    {"library": "tfds", "folder": "bridge_dataset/1.0.0", "out": "OUT.tfrecord"}
    {"seconds": 9.1, "frames": 2000}

The first gives the folder the features.json that tensorflow-datasets wants. The second reads all
steps, decodes only what is used of them, resizes by area and writes one Example per sixteen steps,
with the JPEGs of 192x320 and the pixels of 24x40, by one traced function. Seconds are the
process's own on the core.
"""

import json
import sys
import time
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

CAMERAS = ("image_0", "image_1", "image_2", "image_3")
USED = CAMERAS[0]
FRAMES = 16
THREADS = 4  # one waits for others where datasets are nested; all have the same core


def describe(folder: str) -> None:
    """Writes features.json of Bridge 1.0.0, with images of any size."""
    features = tfds.features
    number, flag, text = tf.float32, tf.bool, features.Text()
    observation: dict[str, Any] = {name: features.Image(encoding_format="jpeg") for name in CAMERAS}
    observation["state"] = features.Tensor(shape=(7,), dtype=number)
    step: dict[str, Any] = dict.fromkeys(("is_first", "is_last", "is_terminal"), flag)
    step |= dict.fromkeys(("reward", "discount"), number)
    step |= {"language_instruction": text, "observation": observation}
    step["language_embedding"] = features.Tensor(shape=(512,), dtype=number)
    step["action"] = features.Tensor(shape=(7,), dtype=number)
    meta: dict[str, Any] = {f"has_{name}": flag for name in (*CAMERAS, "language")}
    meta |= {"file_path": text, "episode_id": tf.int32}
    whole = {"steps": features.Dataset(step), "episode_metadata": meta}
    features.FeaturesDict(whole).save_config(folder)


def _step(step: dict[str, Any]) -> dict[str, Any]:
    image = tf.cast(step["observation"][USED], tf.float32)

    def resized(height: int, width: int) -> Any:
        small = tf.image.resize(image, (height, width), method="area")
        return tf.cast(tf.round(small), tf.uint8)

    jpeg = tf.io.encode_jpeg(resized(192, 320), quality=95, chroma_downsampling=True)
    kept = {name: step[name] for name in ("action", "language_instruction")}
    return kept | {"state": step["observation"]["state"], "jpeg": jpeg, "raw": resized(24, 40)}


def convert(folder: str, out: str) -> int:
    """Frames written."""
    builder: Any = tfds.builder_from_directory(folder)
    skipped = {name: tfds.decode.SkipDecoding() for name in CAMERAS if name != USED}
    decoders: Any = {"steps": {"observation": skipped}}
    episodes = builder.as_dataset(split="train", decoders=decoders)
    batches = episodes.flat_map(lambda e: e["steps"].map(_step).batch(FRAMES))
    frames = 0
    with tf.io.TFRecordWriter(out) as writer:
        for batch in batches.as_numpy_iterator():
            writer.write(_example(batch))
            frames += len(batch["jpeg"])
    return frames


def _example(values: dict[str, Any]) -> bytes:
    train = tf.train
    feature = {
        name: train.Feature(bytes_list=train.BytesList(value=list(values[name])))
        for name in ("jpeg", "language_instruction")
    }
    feature["raw"] = train.Feature(bytes_list=train.BytesList(value=[values["raw"].tobytes()]))
    for name in ("action", "state"):
        numbers = train.FloatList(value=values[name].ravel())
        feature[name] = train.Feature(float_list=numbers)
    return train.Example(features=train.Features(feature=feature)).SerializeToString()


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    for line in sys.stdin:
        request, frames = json.loads(line), 0
        begin = time.process_time()
        if request["library"] == "describe":
            describe(request["folder"])
        else:
            frames = convert(request["folder"], request["out"])
        seconds = time.process_time() - begin
        print(json.dumps({"seconds": seconds, "frames": frames}), flush=True)


if __name__ == "__main__":
    main()
