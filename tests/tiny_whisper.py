"""A tiny Whisper that always says the same thing, in the formats of both back ends.

Its decoder depends on little but the position: position n yields token n of a script. So the expected output is known
exactly; audio and previous tokens only change the probabilities a little.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS, N_MELS = 64, 1, 2, 80
MAX_POSITIONS = 448
# Norm of the token embeddings; the script's token then has a logit of 8 x 2 = 16 and a probability of 0.96, because the
# 51,864 others have a spread of 2.
EMBEDDING_NORM = 2.0
POSITION_NORM = 20 * EMBEDDING_NORM
ATTENTION_GAIN = 100.0  # gives the attention output a norm of about 20, half of POSITION_NORM


def make_whisper(folder: Path, script: Sequence[str | float], *, language: str | None = "en") -> Path:
    """Write the model in transformers' format, and return its folder.

    script: its output, texts and times in seconds, as `[0.0, " Hello there.", 1.5]`. language: the one that it detects;
    None makes an English-only model, like the `.en` ones.
    """
    import torch
    import whisper.tokenizer
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    encoding = whisper.tokenizer.get_encoding("multilingual" if language else "gpt2", num_languages=99)
    specials = encoding._special_tokens
    config = WhisperConfig(
        vocab_size=encoding.n_vocab,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        num_mel_bins=N_MELS,
        max_target_positions=MAX_POSITIONS,
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    tokens = [specials[f"<|{language}|>"], specials["<|transcribe|>"]] if language else []
    for part in script:
        tokens += encoding.encode(part) if isinstance(part, str) else [specials[f"<|{part:.2f}|>"]]
    tokens.append(specials["<|endoftext|>"])
    with torch.no_grad():
        decoder = model.model.decoder
        embeddings = torch.nn.functional.normalize(torch.randn(config.vocab_size, WIDTH), dim=1)
        decoder.embed_tokens.weight.copy_(EMBEDDING_NORM * embeddings)
        tokens += tokens[-1:] * (MAX_POSITIONS - len(tokens))  # ends every beam
        decoder.embed_positions.weight.copy_(POSITION_NORM * embeddings[tokens])
        for layer in decoder.layers:
            layer.self_attn.out_proj.weight.mul_(ATTENTION_GAIN)
            layer.encoder_attn.out_proj.weight.mul_(ATTENTION_GAIN)
    languages = {token: number for token, number in specials.items() if re.fullmatch(r"<\|[a-z]{2,3}\|>", token)}
    model.generation_config = GenerationConfig(
        lang_to_id=languages, suppress_tokens=[], begin_suppress_tokens=[220, specials["<|endoftext|>"]]
    )
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(encoding._mergeable_ranks, specials)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": N_MELS}))
    return folder


def tokenizer_json(ranks: dict[bytes, int], specials: dict[str, int]) -> dict[str, Any]:
    """Return a tiktoken tokenizer in the format of the tokenizers library.

    Its merges are, for each token, all pairs of tokens that make it, in the order of the token's rank: the pair of the
    lowest rank is merged first, as tiktoken does.
    """
    names = _byte_names()

    def name(token: bytes) -> str:
        return "".join(names[byte] for byte in token)

    merges = [
        (name(token[:cut]), name(token[cut:]))
        for token in sorted(ranks, key=lambda token: ranks[token])
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    split = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": token, **flags} for token, n in specials.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name(token): rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }


def _byte_names() -> list[str]:
    """Return the character that GPT-2 tokenizers use for each byte."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def convert(source: Path, folder: Path) -> Path:
    """Write the model of `make_whisper` in faster-whisper's format, int8, and return the folder."""
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(source), copy_files=["tokenizer.json", "preprocessor_config.json"])
    converter.convert(str(folder), quantization="int8")
    return folder


# openai-whisper's names of the parts of a block, by transformers' name.
_PARTS = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "layers": "blocks",
    "embed_tokens": "token_embedding",
}


def checkpoint(source: Path, path: Path) -> Path:
    """Write the model of `make_whisper` in openai-whisper's format, and return the file."""
    import torch
    from safetensors.torch import load_file

    state = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name == "proj_out.weight":
            continue
        parts = [_PARTS.get(part, part) for part in name.removeprefix("model.").split(".")]
        own = ".".join(parts).replace("embed_positions.weight", "positional_embedding")
        own = own.replace("encoder.layer_norm", "encoder.ln_post").replace("decoder.layer_norm", "decoder.ln")
        state[own] = tensor
    dims = {
        "n_mels": N_MELS,
        "n_audio_ctx": 1500,
        "n_audio_state": WIDTH,
        "n_audio_head": HEADS,
        "n_audio_layer": LAYERS,
        "n_vocab": len(state["decoder.token_embedding.weight"]),
        "n_text_ctx": MAX_POSITIONS,
        "n_text_state": WIDTH,
        "n_text_head": HEADS,
        "n_text_layer": LAYERS,
    }
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return path
