"""Small sentence-transformers models with random weights, in the same files as models from the hub.

Making one imports torch, transformers and sentence-transformers, half a minute on a busy machine: make each once per
session.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

DIM = 24
TINY = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
# The ids that XLM-RoBERTa gives its special tokens; BERT's padding is 0.
_SPECIAL = {"xlm-roberta": ["<s>", "<pad>", "</s>", "<unk>"], "bert": ["<pad>", "<s>", "</s>", "<unk>"]}
_PROSE = (
    "a dog runs in the park",
    "the red car waits at the crossing while two children feed the pigeons",
    "query: how does a rocket engine work",
    "passage: ein Hund läuft über die Straße, un chien court dans le parc",
)


def make_e5(folder: Path) -> Path:
    """Write a model like multilingual-e5: XLM-RoBERTa, pad id 1, mean pooling; return the folder."""
    return make_sentences(folder, "xlm-roberta", "mean", prompts={})


def make_bge(folder: Path) -> Path:
    """Write a BERT with first-token pooling, a dense layer and a prompt for queries; return the folder."""
    return make_sentences(folder, "bert", "cls", prompts={"query": "find: "}, dense=True)


def make_sentences(
    folder: Path,
    architecture: str,
    pooling: str,
    *,
    prompts: Mapping[str, str],
    dense: bool = False,
    sizes: Mapping[str, int] = MappingProxyType(TINY),
) -> Path:
    """Write a sentence-transformers folder with random weights; return it.

    architecture: a key of _SPECIAL. pooling: as sentence-transformers names it. dense: with a layer after the pooling,
    to DIM dimensions. sizes: as transformers' configurations name them.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import AutoConfig, AutoModel

    base = folder.with_name(f"{folder.name}-base")
    base.mkdir(parents=True)
    _write_tokenizer(base, _SPECIAL[architecture])
    pad = _SPECIAL[architecture].index("<pad>")
    width = sizes["hidden_size"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.for_model(architecture, **sizes, pad_token_id=pad)).save_pretrained(base)
        modules = [Transformer(str(base)), Pooling(width, pooling)]
        if dense:
            modules.append(Dense(width, DIM))
    modules.append(Normalize())
    SentenceTransformer(modules=modules, prompts=dict(prompts), device="cpu").save(str(folder))
    return folder


def _write_tokenizer(folder: Path, special: list[str]) -> None:
    """Write the files that transformers reads; every text is enclosed in <s> and </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        _PROSE, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    marks = [(token, special.index(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 64,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
