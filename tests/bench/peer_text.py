"""`transformers`' T5 encoder on PyTorch's CPU kernels, in a Python of its own.

`timing.Peer` runs it; it imports nothing of the project. Requests and answers are lines of JSON:

    {"library": "transformers", "directory": "DIR"}
    {"seconds": 4.2}
    {"library": "transformers", "texts": "TEXTS.json", "batch": 16, "out": null}
    {"seconds": 9.1}

The first loads it, imports included. The second embeds texts in the way that is best: tokenised all
at once, sorted by length, padded to the longest of each batch, in inference mode. With `out`, the
embeddings are written to that .npy one after another, float32 `[tokens, width]`. Seconds are the
process's own on the core.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

MAX_TOKENS = 64


class Transformers:
    def __init__(self, directory: str):
        torch, transformers = map(importlib.import_module, ("torch", "transformers"))
        torch.set_num_threads(1)
        self.torch = torch
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.model = transformers.T5EncoderModel.from_pretrained(directory, dtype=torch.float32)
        self.model.eval()

    def embed(self, texts: list[str], batch: int) -> list:
        """Each text's embedding, real tokens only."""
        found = self.tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: len(found[i]))
        rows: list[Any] = [None] * len(texts)
        with self.torch.inference_mode():
            for start in range(0, len(order), batch):
                members = order[start : start + batch]
                ids = {"input_ids": [found[i] for i in members]}
                padded = self.tokenizer.pad(ids, return_tensors="pt")
                states = self.model(**padded).last_hidden_state.numpy()
                for i, state in zip(members, states, strict=True):
                    rows[i] = state[: len(found[i])].copy()
        return rows


class Server:
    def __init__(self):
        self.model: Any = None

    def answer(self, request: dict) -> dict:
        begin = time.process_time()
        if "directory" in request:
            self.model = Transformers(request["directory"])
            return {"seconds": time.process_time() - begin}
        texts = json.loads(Path(request["texts"]).read_text())
        begin = time.process_time()
        rows = self.model.embed(texts, request["batch"])
        seconds = time.process_time() - begin
        if request["out"] is not None:
            import numpy as np

            np.save(request["out"], np.concatenate(rows))
        return {"seconds": seconds}


def main() -> None:
    server = Server()
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
