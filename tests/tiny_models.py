"""Small open_clip models with random weights, in the same files as models from the hub.

Making one imports torch and open_clip, which takes seconds: make each once per session.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLIP_SIZE_PX = 64
SIGLIP_SIZE_PX = 160

# A small ViT-B-32: open_clip's own transformers, its BPE tokenizer (which has no file), CLIP's mean and deviation.
CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": CLIP_SIZE_PX, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CLIP_PIXELS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
# A small ViT-L-16-SigLIP2: timm's vision transformer with attention pooling, its own tokenizer, attention between all
# tokens, and the vector of the last position, which is usually padding.
SIGLIP: dict[str, Any] = {
    "embed_dim": 96,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": SIGLIP_SIZE_PX,
        "timm_model_name": "test_vit3",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 512,
        "hf_tokenizer_name": "timm/ViT-L-16-SigLIP2-256",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 96,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}
SIGLIP_PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}

# Enough text for a tokenizer that merges some letters and splits most words.
_PROSE = (
    "a dog runs in the park",
    "the red car waits at the crossing while two children feed the pigeons",
    "somebody explains how a rocket engine works",
    "people dance in the street at night, and a man plays the guitar",
    "ein Hund läuft über die Straße",
    "un chien court dans le parc",
)


def make_clip(folder: Path) -> Path:
    """Write a model like ViT-B-32-256 into a new folder; return the folder."""
    return make_open_clip(folder, CLIP, CLIP_PIXELS)


def make_siglip(folder: Path) -> Path:
    """Write a model like ViT-L-16-SigLIP2-256 into a new folder; return the folder."""
    make_open_clip(folder, SIGLIP, SIGLIP_PIXELS)
    _write_tokenizer(folder)
    return folder


def make_open_clip(folder: Path, model: Mapping[str, Any], pixels: Mapping[str, Any], *, seed: int = 0) -> Path:
    """Write an open_clip folder with random weights; return it.

    model: an entry of open_clip's model_configs. pixels: preprocess_cfg, as in open_clip's list of pretrained models.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {"model_cfg": model, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def _write_tokenizer(folder: Path) -> None:
    """Write the files that transformers reads: pads with 0, ends every text with 1, as SigLIP2's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIGLIP["text_cfg"]["vocab_size"],
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_PROSE, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "padding_side": "right",
        "model_max_length": SIGLIP["text_cfg"]["context_length"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
