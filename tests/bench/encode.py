"""Speed of the image encoders, and their share of the machine's peak: python tests/bench/encode.py

open_clip's image models at full size, with random weights (the speed is the same), fed as by the indexer: 8-bit 16:9
frames in, vectors out, in batches of the encoder's choice. Their arithmetic rate is compared with large matrix products
on the same device in the same round; rates and shares are medians over the rounds. Then `lite`'s image encoder is
compared with its plain torch form, alternately.

Runs on CUDA if available, else on the processor; there, time is processor time divided by the number of threads
(OMP_NUM_THREADS), so other work does not count. bfloat16 only where it is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vfindex.indexer.models.base import LANES_PER_GPU
from vfindex.indexer.models.catalog import EFFICIENTNET_WEIGHTS
from vfindex.indexer.models.export.lite import load_label_model
from vfindex.indexer.models.image.open_clip import CPU_BATCH, OpenClipEncoder, fastest_format, placed
from vfindex.indexer.models.image.tower import ImageTower, Preparation
from vfindex.indexer.models.image.vit import ClipVit, VitShape
from vfindex.indexer.models.lite import SIZE_PX, ensure_lite
from vfindex.indexer.models.packages import locate_package_file
from vfindex.storage.encoders.image import LiteImageEncoder
from vfindex.storage.encoders.pixels import Pixels

MODELS = ("ViT-B-32", "PE-Core-B-16")
# Sides of the square matrices: large enough to keep the device busy, some tenths of a second on a processor.
MATRIX = {"cuda": 8192, "cpu": 2048}
# Batches a round of a GPU: enough to last a second. A CPU computes one in each thread.
BATCHES = 40
LITE_IMAGES = 16


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that work takes until the device is done."""
    if device.type == "cpu":
        began = time.process_time()
        work()
        return (time.process_time() - began) / torch.get_num_threads()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating point operations a second of large matrix products."""
    side = MATRIX[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    n = 20 if device.type == "cuda" else 2
    return n * 2 * side**3 / seconds(lambda: [torch.mm(a, b) for _ in range(n)], device)


def random_tower(name: str) -> ImageTower:
    """Return a model's image encoder with random weights, float32."""
    visual = open_clip.create_model(name).visual
    size_px = visual.preprocess_cfg["size"][0]
    if (shape := VitShape.of(open_clip.get_model_config(name))) is not None:
        visual = ClipVit(shape)
        for parameter in visual.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    squash = name.startswith("PE-Core") or "SigLIP" in name
    preparation = Preparation(size_px, "squash" if squash else "shortest", "bicubic", (0.5,) * 3, (0.5,) * 3)
    return ImageTower(visual, preparation).eval().requires_grad_(False)


def operations(tower: ImageTower) -> int:
    """Return the floating point operations per image; a multiply-add counts as two."""
    size_px = tower.preparation.size_px
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator is not counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tower(torch.zeros((1, size_px, size_px, 3), dtype=torch.uint8))
    torch.backends.mha.set_fastpath_enabled(True)
    return int(counter.get_total_flops())


def frames_of(size_px: int, n: int) -> list[Pixels]:
    """Return n frames of noise, 16:9."""
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (n, size_px, size_px * 16 // 9, 3), dtype=np.uint8))


def bench_tower(name: str, device: torch.device, dtype: torch.dtype, rounds: int) -> None:
    """Print a line about a model in a number format."""
    tower = random_tower(name)
    flop = operations(tower)
    tower.visual.to(dtype)
    threads = torch.get_num_threads()
    encoder = OpenClipEncoder(
        [(placed(tower, device, compiled=False), device)], batch_frames=CPU_BATCH, threads=threads
    )
    if device.type == "cuda":
        encoder.find_batch()
    callers = LANES_PER_GPU + 1 if device.type == "cuda" else threads
    n = BATCHES if device.type == "cuda" else threads
    frames = frames_of(encoder.size_px, encoder.batch_frames)
    rates, shares, peaks = [], [], []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with ThreadPoolExecutor(callers) as pool:
        for _ in range(rounds):
            peaks.append(matrix_rate(device, dtype))
            taken_s = seconds(lambda: list(pool.map(encoder.encode_images, [frames] * n)), device)
            rates.append(n * len(frames) / taken_s)
            shares.append(rates[-1] * flop / peaks[-1])
    rate, share, peak = (statistics.median(values) for values in (rates, shares, peaks))
    memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""
    print(
        f"{name:14} {str(dtype).removeprefix('torch.'):9} {rate:8.1f} images/s ({min(rates):.1f} to {max(rates):.1f}), "
        f"batch {encoder.batch_frames}{memory}; {flop / 1e9:.1f} GFLOP each, {share:.2f} of the matrix products' "
        f"{peak / 1e9:,.0f} GFLOP/s; {rate:.0f} times real time at 1 frame a second",
        flush=True,
    )


def bench_lite(threads: int, rounds: int) -> None:
    """Print how `lite`'s image encoder compares with the same network in plain torch, one crop per image."""
    cache = os.environ.get("VFINDEX_CACHE")
    if not cache:
        print("lite: set VFINDEX_CACHE to a folder for its models")
        return
    encoder = LiteImageEncoder.open(ensure_lite(Path(cache)).visual, threads=threads)
    network = load_label_model(locate_package_file(EFFICIENTNET_WEIGHTS, Path(cache))).network
    pictures = [frame[:, :SIZE_PX] for frame in frames_of(SIZE_PX, LITE_IMAGES)]
    batch = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().contiguous() - 127.5) / 127.5
    cpu = torch.device("cpu")

    def plain(size: int) -> Callable[[], object]:
        return lambda: [network(part) for part in torch.split(batch, size)]

    forms: dict[str, Callable[[], object]] = {
        "lite": lambda: encoder.encode_images(pictures),
        "torch, 1 at a time": plain(1),
        "torch, 16 at a time": plain(16),
    }
    taken: dict[str, list[float]] = {name: [] for name in forms}
    with torch.inference_mode():
        for turn in range(rounds + 1):  # the first round warms up
            for name, form in forms.items():
                taken_s = seconds(form, cpu)
                if turn:
                    taken[name].append(taken_s)
    for name, spent in taken.items():
        ratios = [s / own for s, own in zip(spent, taken["lite"], strict=True)]
        print(
            f"{name:24} {LITE_IMAGES / statistics.median(spent):8.1f} images/s, "
            f"lite is {statistics.median(ratios):.1f} times as fast"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("models", nargs="*", default=MODELS, help="open_clip's names (default: ViT-B-32, PE-Core-B-16)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-lite", action="store_true")
    asked = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{device.type}, {name}")
    for model in asked.models:
        for dtype in (torch.bfloat16, torch.float32):
            if dtype in (torch.float32, fastest_format(device)):
                bench_tower(model, device, dtype, asked.rounds)
            else:
                print(f"{model:14} bfloat16: not the faster format here")
    if not asked.without_lite:
        bench_lite(torch.get_num_threads(), asked.rounds)


if __name__ == "__main__":
    main()
