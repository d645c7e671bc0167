"""A small CLAP model with random weights, in the same files as models from the hub.

Making one imports torch and transformers, which takes seconds: make each once per session.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

DIM = 32
# Those of laion/clap-htsat-unfused.
FEATURES: Mapping[str, Any] = MappingProxyType(
    {
        "feature_extractor_type": "ClapFeatureExtractor",
        "feature_size": 64,
        "sampling_rate": 48_000,
        "hop_length": 480,
        "max_length_s": 10,
        "fft_window_size": 1024,
        "padding_value": 0.0,
        "frequency_min": 50,
        "frequency_max": 14_000,
        "top_db": None,
        "truncation": "rand_trunc",
        "padding": "repeatpad",
        "processor_class": "ClapProcessor",
    }
)
TEXT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 80,
}
AUDIO = {
    "patch_embeds_hidden_size": 8,
    "hidden_size": 64,
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "aff_block_r": 2,
}
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_PROSE = ("a dog barks in the rain", "This is a sound of applause.", "music, a siren and the noise of an engine")


def make_clap(folder: Path, *, seed: int = 0, features: Mapping[str, Any] = FEATURES, **audio: Any) -> Path:
    """Write a model with random weights, its tokenizer and its feature extractor; return the folder."""
    import torch
    from transformers import ClapConfig, ClapModel

    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ClapConfig(text_config=TEXT, audio_config={**AUDIO, **audio}, projection_dim=DIM)
        ClapModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(features)), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write the files of RoBERTa's tokenizer: bytes, every text enclosed in <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_PROSE, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 78,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts), encoding="utf-8")
