"""Training steps of video-diffusion-pytorch's `Unet3D`, in a Python of its own.

`timing.Peer` runs it; it imports nothing of the project. Requests and answers are lines of JSON:

    {"library": "video-diffusion-pytorch", "linear": true, "threads": 2, "shape": [2, 16, 24, 40]}
    {"parameters": 10589587, "flops": 306095980544}
    {"library": "video-diffusion-pytorch"}
    {"seconds": 4.9, "forward": 1.7, "own": 9.5}

The first builds `Unet3D(64, dim_mults=(1, 2, 4))`, with its linear spatial attention or without,
and counts the FLOPs of a step. The second takes a step: forward, mean squared error of the noise,
backward and Adam, without text. It says how long that took, how long its forward pass, and what all
threads had of the cores.
"""

import importlib
import json
import sys
import time


class Trained:
    def __init__(self, linear: bool, threads: int, shape: list[int]):
        torch, peer = map(importlib.import_module, ("torch", "video_diffusion_pytorch"))
        counter = importlib.import_module("torch.utils.flop_counter")
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.model = peer.Unet3D(64, dim_mults=(1, 2, 4), use_sparse_linear_attn=linear)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.adam = torch.optim.Adam(self.model.parameters(), lr=1e-4, betas=(0.9, 0.99))
        batch, frames, height, width = shape
        self.noise = torch.randn(batch, 3, frames, height, width)
        self.times = torch.rand(batch)
        with counter.FlopCounterMode(display=False) as counted:
            self.step()
        self.flops = counted.get_total_flops()

    def step(self) -> dict[str, float]:
        start, own = time.perf_counter(), time.process_time()
        self.adam.zero_grad()
        loss = (self.model(self.noise, self.times) - self.noise).square().mean()
        forward = time.perf_counter() - start
        loss.backward()
        self.adam.step()
        taken = {"seconds": time.perf_counter() - start, "own": time.process_time() - own}
        return {**taken, "forward": forward}


def main() -> None:
    trained = None
    for line in sys.stdin:
        request = json.loads(line)
        if "linear" in request:
            trained = Trained(request["linear"], request["threads"], request["shape"])
            answer = {"parameters": trained.parameters, "flops": trained.flops}
        else:
            assert trained is not None, "no model was asked for"
            answer = trained.step()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
