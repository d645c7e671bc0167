"""Trains temporal heads (storage/heads.py) with torch, on the processor: `vfindex tune --temporal`.

Values are published ones. AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) at the rate of Adam's authors (Kingma
and Ba 2015, arXiv 1412.6980), decayed along a cosine after a warm-up (Loshchilov and Hutter 2017, arXiv 1608.03983).
300 epochs, the first five of them to warm up, and a weight decay of 0.05 as in DeiT (Touvron et al. 2021, arXiv
2012.12877). Dropout and label smoothing of 0.1 (Vaswani et al. 2017, arXiv 1706.03762). The same clips give the same
weights on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vfindex.storage.heads import ATTENTIONS, INNER, LAYERS, LEAST_SPREAD, WIDTH, padded_frames, positions
from vfindex.storage.records import FloatArray

EPOCHS, WARM_UP_EPOCHS, RATE, WEIGHT_DECAY, DROPOUT, SMOOTHING = 300, 5, 1e-3, 0.05, 0.1, 0.1
BATCH_CLIPS = 64
# A bound on time, reached from 833 clips on. A step of 64 clips of 12 frames takes 40 ms of a core.
MAX_STEPS = 4_000
_SEED = 0


class Network(nn.Module):
    """A temporal head in torch; `shapes_of` names its weights."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        layer = nn.TransformerEncoderLayer(WIDTH, ATTENTIONS, INNER, DROPOUT, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.classify = nn.Linear(WIDTH, classes)

    def forward(self, frames: Tensor, present: Tensor) -> Tensor:
        """Return (n, classes) logits. frames: (n, frames, dim), standardised. present: (n, frames): where one is."""
        placed = self.dropout(self.project(frames) + torch.from_numpy(positions(frames.shape[1])))
        hidden = self.encoder(placed, src_key_padding_mask=~present)
        mask = present.unsqueeze(-1)
        scores: Tensor = self.classify((hidden * mask).sum(1) / mask.sum(1))
        return scores


def steps_of(clips: int) -> int:
    """Return how many steps a training on so many clips takes."""
    return min(EPOCHS * math.ceil(clips / BATCH_CLIPS), MAX_STEPS)


def train_head(
    clips: Sequence[FloatArray], labels: NDArray[np.int64], classes: int, progress: Callable[[int, int], None]
) -> dict[str, FloatArray]:
    """Return the weights of a head. clips: frame vectors (frames, dim) of each, at least one frame. labels: (n,).

    Classes are weighted alike, however many clips they have. progress: called with steps done, and of how many.
    """
    torch.set_num_threads(1)  # products this small gain nothing from more, and wait for each other on a busy machine
    dim = clips[0].shape[1]
    frames, present = padded_frames(list(clips), dim)
    mean, spread = frames[present].mean(axis=0), np.maximum(frames[present].std(axis=0), LEAST_SPREAD)
    frames = np.where(present[:, :, None], (frames - mean) / spread, np.float32(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = Network(dim, classes)
        _fit(network, (frames, present, labels), progress)
    found = {name: value.detach().numpy().astype(np.float32) for name, value in network.state_dict().items()}
    return {"mean": mean, "spread": spread, **found}


def _fit(
    network: Network,
    data: tuple[FloatArray, NDArray[np.bool_], NDArray[np.int64]],
    progress: Callable[[int, int], None],
) -> None:
    frames, present, labels = (torch.from_numpy(np.ascontiguousarray(each)) for each in data)
    counts = torch.bincount(labels, minlength=network.classify.out_features)
    weight = len(labels) / (counts.clamp(min=1) * (counts > 0).sum())
    loss_of = nn.CrossEntropyLoss(weight.float(), label_smoothing=SMOOTHING)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    steps = steps_of(len(labels))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    order = torch.empty(0, dtype=torch.int64)
    network.train()
    for step in range(steps):
        if not len(order):
            order = torch.randperm(len(labels))
        rows, order = order[:BATCH_CLIPS], order[BATCH_CLIPS:]
        optimiser.zero_grad()
        loss_of(network(frames[rows], present[rows]), labels[rows]).backward()
        optimiser.step()
        scheduler.step()
        progress(step + 1, steps)
    network.eval()


def _rate(step: int, steps: int) -> float:
    """Return the share of the rate at a step: up along a line, then down along a cosine."""
    warm = max(1, steps * WARM_UP_EPOCHS // EPOCHS)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
