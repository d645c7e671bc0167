"""Cost of hearing sounds: processor seconds for a minute of sound, and for a question.

    python tests/bench/sounds.py [--minutes 1] [--threads 1]

The models have the sizes of LAION's, and random weights: this says nothing of quality. Sound is noise.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_clap import FEATURES, write_tokenizer

SIZES: dict[str, dict[str, Any]] = {
    "clap-htsat-unfused": {},
    "larger_clap_general": {"depths": [2, 2, 12, 2], "hidden_size": 1024, "patch_embeds_hidden_size": 128},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    from vfindex.indexer.models.sound.clap import ClapEncoder
    from vfindex.indexer.models.sound.mel import MelSettings

    random = np.random.default_rng(0)
    windows = round(options.minutes * 6)
    sounds = [(random.standard_normal(480_000) * 3000).astype(np.int16) for _ in range(windows)]
    print(f"load {os.getloadavg()[0]:.1f}, {options.threads} threads, {windows} windows of 10 s")
    with tempfile.TemporaryDirectory() as temporary:
        for name, audio in SIZES.items():
            folder = make(Path(temporary) / name, audio)
            encoder = ClapEncoder.open(folder, threads=options.threads)
            encoder.encode_sounds(sounds[:1])
            mel_s = spent(lambda of=folder: MelSettings.read(of).spectrograms(sounds))
            all_s = spent(lambda of=encoder: of.encode_sounds(sounds))
            print(f"{name}: {60 * all_s / (10 * windows):.2f} s a minute, of which the spectrogram {mel_s / all_s:.0%}")


def make(folder: Path, audio: dict[str, Any]) -> Path:
    """Write a model of these sizes with random weights; return the folder."""
    import json

    import torch
    from transformers import ClapConfig, ClapModel

    folder.mkdir()
    torch.manual_seed(0)
    ClapModel(ClapConfig(audio_config=audio)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(FEATURES)), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def spent(work: Callable[[], object]) -> float:
    """Return the processor seconds of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
