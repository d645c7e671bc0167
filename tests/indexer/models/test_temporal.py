"""Temporal heads in NumPy compute what torch does, and training is deterministic."""

from __future__ import annotations

import numpy as np
import pytest

from vfindex.search.understanding.labelling.temporal import features_of, logits_of
from vfindex.storage.heads import MAX_FRAMES, TemporalHead, padded_frames, shapes_of
from vfindex.storage.records import FloatArray

torch = pytest.importorskip("torch", reason="torch trains temporal heads: pip install 'vfindex[index]'")

DIM = 16


def clips_of(lengths: list[int]) -> list[FloatArray]:
    generator = np.random.default_rng(1)
    return [generator.standard_normal((length, DIM)).astype(np.float32) for length in lengths]


def test_numpy_computes_what_torch_does() -> None:
    from vfindex.indexer.models.temporal import Network

    torch.manual_seed(3)
    network = Network(DIM, 5).eval()
    generator = np.random.default_rng(2)
    standard = {"mean": generator.standard_normal(DIM), "spread": generator.uniform(0.5, 2, DIM)}
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    weights = {name: np.asarray(value, np.float32) for name, value in {**standard, **state}.items()}
    assert {name: value.shape for name, value in weights.items()} == shapes_of(DIM, 5)
    head = TemporalHead(("a", "b", "c", "d", "e"), "m", weights, 1.0, 1.0)
    clips = clips_of([1, 2, 7, MAX_FRAMES, 3 * MAX_FRAMES])
    frames, present = padded_frames(clips, DIM)
    placed = torch.from_numpy((frames - weights["mean"]) / weights["spread"])
    with torch.inference_mode():
        wanted = network(placed, torch.from_numpy(present)).numpy()
    assert np.allclose(logits_of(head, features_of(head, clips)), wanted, atol=1e-5)
    assert not features_of(head, [None, *clips])[0].any()


def test_the_same_clips_give_the_same_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from vfindex.indexer.models import temporal

    monkeypatch.setattr(temporal, "EPOCHS", 3)
    clips, labels, steps = clips_of([4] * 70), np.arange(70) % 3, list[tuple[int, int]]()
    before = torch.random.get_rng_state()
    one = temporal.train_head(clips, labels, 3, lambda done, total: steps.append((done, total)))
    other = temporal.train_head(clips, labels, 3, lambda done, total: None)
    assert steps == [(done, 6) for done in range(1, 7)]  # two batches an epoch
    assert all(np.array_equal(one[name], other[name]) for name in shapes_of(DIM, 3))
    assert torch.equal(before, torch.random.get_rng_state())
