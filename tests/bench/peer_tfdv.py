"""TensorFlow Data Validation on two files of TFRecords: what is odd in the second, by the schema
and the statistics of the first. A Python that has it runs this; it imports nothing of the project.

    python peer_tfdv.py CLEAN SPOILED

prints one line of JSON: seconds without imports, and feature -> what was said.
"""

import json
import sys
import time


def main(clean: str, spoiled: str) -> None:
    import tensorflow_data_validation as tfdv  # pyright: ignore[reportMissingImports]

    begin = time.perf_counter()
    before = tfdv.generate_statistics_from_tfrecord(clean)
    schema = tfdv.infer_schema(before)
    for name in ("actions", "times", "brightness"):
        tfdv.get_feature(schema, name).drift_comparator.jensen_shannon_divergence.threshold = 0.1
    now = tfdv.generate_statistics_from_tfrecord(spoiled)
    found = tfdv.validate_statistics(now, schema, previous_statistics=before)
    said = {name: info.description for name, info in found.anomaly_info.items()}
    print(json.dumps({"seconds": time.perf_counter() - begin, "anomalies": said}))


if __name__ == "__main__":
    main(*sys.argv[1:])
