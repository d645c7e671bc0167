"""The fastest number format of a machine is measured, not read from CPU flags."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("float32_s", "bfloat16_s", "expected"),
    [
        ([4.0], [2.0], "bfloat16"),
        ([2.0], [1.7], "float32"),  # no clear gain
        ([2.0], [2.0], "float32"),
        ([1.0], [80.0], "float32"),  # emulated
        ([4.0], [9.0, 9.0, 9.0, 2.0], "bfloat16"),  # other work on the machine, for a while
        ([9.0, 9.0, 9.0, 2.0], [2.0], "float32"),
    ],
)
def test_the_faster_format_is_chosen(
    monkeypatch: pytest.MonkeyPatch, float32_s: list[float], bfloat16_s: list[float], expected: str
) -> None:
    import torch

    from vfindex.indexer.models.image import open_clip as open_clip_encoder

    times_s = {torch.float32: [*float32_s], torch.bfloat16: [*bfloat16_s]}
    monkeypatch.setattr(
        open_clip_encoder,
        "_product_s",
        lambda dtype: times_s[dtype].pop(0) if times_s[dtype][1:] else times_s[dtype][0],
    )
    measured = open_clip_encoder.fastest_format.__wrapped__
    assert measured(torch.device("cpu")) is getattr(torch, expected)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN can be limited to AVX2 only on x86")
def test_emulated_bfloat16_is_not_chosen() -> None:
    code = (
        "import torch\nfrom vfindex.indexer.models.image.open_clip import fastest_format\n"
        "print(fastest_format(torch.device('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "torch.float32"
