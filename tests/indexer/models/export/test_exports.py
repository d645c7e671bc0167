"""Exported models return torch's vectors, from text or pixels to vector; each is exported once.

All tests that need torch are in this file, so that one worker imports it once.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from exporting import exports_in_this_process
from sentence_transformers import SentenceTransformer
from tiny_models import CLIP, CLIP_PIXELS, CLIP_SIZE_PX, make_open_clip, make_siglip
from tiny_sentences import make_e5

from vfindex.indexer.models.export import cache as export_cache
from vfindex.indexer.models.export.cache import ensure_part
from vfindex.indexer.models.export.calibration_images import calibration_images
from vfindex.indexer.models.export.graph import PARITY, check_parity
from vfindex.indexer.models.priors import background_queries, sentences, text_prior, visual_prior
from vfindex.indexer.models.sentence import SentenceEncoder, chosen_prompts
from vfindex.indexer.models.store import LocalModel
from vfindex.storage.encoders.image import open_image_encoder
from vfindex.storage.encoders.text import TextEncoder, open_session, read_meta, readable
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

TEXTS = [
    "a dog in the snow",
    "",
    "   It's Bob's DOG'S\tbowl; 12345 x 3,000.50 &amp; <b>&eacute;</b>\r\n",
    "“curly” ‘quotes’ – dash… ﬁne Ｆｕｌｌ　ｗｉｄｔｈ e\u0301",  # noqa: RUF001  # which is what is tested
    "schÃ¶n mojibake â€œquotedâ€\x9d \x1b[31mred\x1b[0m \xa0 \u3000 \u200b x",
    "ΟΔΟΣ İstanbul Привет العربية हिन्दी 한국어 犬が走る",
    "🐶🎉👨‍👩‍👧‍👦 ½ Ⅷ ² १२३ C++ #tag @user http://a.b/c?d=e_f",
    "!!!???...---___",
    "word " * 300,
    "a" * 900,
]


def local(folder: Path) -> LocalModel:
    """Return a model such as the store returns, with a made-up hash."""
    weights = next(folder.glob("*.safetensors"))
    return LocalModel(f"local-dir:{folder}", folder, weights, folder.name * 8)


def ignore(line: str) -> None:
    """Say nothing."""


def least_cosine(found: FloatArray, expected: FloatArray) -> float:
    assert found.shape == expected.shape
    lengths = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
    assert np.allclose(lengths[0], 1, atol=1e-5)
    return float(((found * expected).sum(axis=1) / lengths[0] / lengths[1]).min())


@pytest.fixture(scope="module", autouse=True)
def children() -> Iterator[list[str]]:
    with exports_in_this_process() as made:
        yield made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def clip(models: Path) -> LocalModel:
    # Half of tracing is by the layer.
    flat = CLIP | {side: CLIP[side] | {"layers": 1} for side in ("vision_cfg", "text_cfg")}
    return local(make_open_clip(models / "ViT-tiny", flat, CLIP_PIXELS))


@pytest.fixture(scope="module")
def clip_text(clip: LocalModel, cache: Path) -> Path:
    return ensure_part(clip, "clip-text", cache, say=ignore)


@pytest.fixture(scope="module")
def siglip(models: Path) -> LocalModel:
    return local(make_siglip(models / "SigLIP-tiny"))


@pytest.fixture(scope="module")
def e5(models: Path) -> LocalModel:
    return local(make_e5(models / "multilingual-e5-small"))


@pytest.fixture(scope="module")
def e5_text(e5: LocalModel, cache: Path) -> Path:
    return ensure_part(e5, "sentence", cache, say=ignore)


def by_open_clip(model: LocalModel, texts: Sequence[str]) -> FloatArray:
    """Return what open_clip gives for texts in the form in which vfindex hands any text to a model."""
    network = open_clip.create_model(f"local-dir:{model.folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model.folder}")
    with torch.inference_mode():
        vectors: FloatArray = network.encode_text(tokenizer([*map(readable, texts)]), normalize=True).numpy()
    return vectors


def test_exported_clip_text_vectors_equal_torch_s(clip: LocalModel, clip_text: Path) -> None:
    encoder = TextEncoder.open(clip_text)
    assert encoder.templates == ("{}",)
    expected = by_open_clip(clip, TEXTS)
    assert least_cosine(encoder.encode(TEXTS), expected) > PARITY
    assert least_cosine(encoder.encode(TEXTS[:1]), expected[:1]) > PARITY
    assert least_cosine(encoder.encode_passages(TEXTS), expected) > PARITY


def test_tokens_equal_open_clip_s(clip: LocalModel, clip_text: Path) -> None:
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip.folder}")
    for text, ids in zip(TEXTS, TextEncoder.open(clip_text).tokens(TEXTS), strict=True):
        assert tokenizer([readable(text)])[0, : len(ids)].tolist() == ids
        assert ids[-1] == tokenizer.eot_token_id


def test_a_tower_that_depends_on_padding_gets_it(siglip: LocalModel, cache: Path) -> None:
    folder = ensure_part(siglip, "clip-text", cache, say=ignore)
    meta = read_meta(folder)
    assert (meta["length"], meta["pad"], meta["cleaning"]) == (64, 0, "canonicalize")
    encoder = TextEncoder.open(folder)
    assert least_cosine(encoder.encode(TEXTS), by_open_clip(siglip, TEXTS)) > PARITY


def test_exported_image_vectors_equal_torch_s(clip: LocalModel, cache: Path) -> None:
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    folder = ensure_part(clip, "clip-image", cache, say=ignore)
    meta = read_meta(folder)
    assert (meta["size_px"], meta["resize_mode"], meta["interpolation"]) == (CLIP_SIZE_PX, "shortest", "bicubic")
    pictures = [p[:, :CLIP_SIZE_PX] for p in calibration_images(CLIP_SIZE_PX)][:5]
    session = open_session(folder, threads=1)
    for n in (1, 5):
        found = session.run(None, {"pixels": np.stack(pictures[:n])})[0]
        expected = OpenClipEncoder.open(clip.folder, threads=1, devices=["cpu"]).encode_images(pictures[:n])
        assert least_cosine(found, expected) > PARITY


def test_query_images_are_preprocessed_as_frames_are(clip: LocalModel, cache: Path) -> None:
    """The frames are wider than the model's square."""
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    frames = list(islice(calibration_images(CLIP_SIZE_PX), 4))
    found = open_image_encoder(ensure_part(clip, "clip-image", cache, say=ignore)).encode_images(frames)
    expected = OpenClipEncoder.open(clip.folder, threads=1, devices=["cpu"]).encode_images(frames)
    assert least_cosine(found, expected) > PARITY


class TestSentences:
    def test_vectors_equal_those_of_sentence_transformers(self, e5: LocalModel, e5_text: Path) -> None:
        network = SentenceTransformer(str(e5.folder), device="cpu", local_files_only=True)
        encoder = TextEncoder.open(e5_text)
        plain = [*map(readable, TEXTS)]
        expected = network.encode(plain, prompt="", normalize_embeddings=True)
        assert least_cosine(encoder.encode(TEXTS), expected) > PARITY
        expected = network.encode(plain, prompt="passage: ", normalize_embeddings=True)
        assert least_cosine(encoder.encode_passages(TEXTS), expected) > PARITY
        assert least_cosine(encoder.encode(TEXTS), expected) < PARITY

    def test_prompts_of_its_family_are_known(self, e5_text: Path) -> None:
        meta = read_meta(e5_text)
        assert (meta["templates"], meta["passage"], meta["pad"]) == (["query: {}"], "passage: ", 1)

    def test_torch_and_onnx_agree_on_passages(self, e5: LocalModel, e5_text: Path) -> None:
        encoder = SentenceEncoder.open(e5, "cpu")
        texts = [*TEXTS, "\udc80 lone surrogate"]
        assert least_cosine(encoder.encode_passages(texts), TextEncoder.open(e5_text).encode_passages(texts)) > PARITY
        assert encoder.encode_passages([]).shape == (0, encoder.dim)

    def test_batches_are_halved_until_they_fit(self, e5: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = SentenceEncoder.open(e5, "cpu")
        expected = encoder.encode_passages(TEXTS)
        encode, sizes = encoder._network.encode, []

        def encode_few(texts: list[str], *, batch_size: int, **options: Any) -> FloatArray:
            sizes.append(batch_size)
            if batch_size > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            vectors: FloatArray = encode(texts, batch_size=batch_size, **options)
            return vectors

        monkeypatch.setattr(encoder._network, "encode", encode_few)
        assert least_cosine(encoder.encode_passages(TEXTS), expected) > PARITY
        assert sizes[-2:] == [4, 2]
        monkeypatch.setattr(encoder._network, "encode", lambda *_, **__: encode_few([], batch_size=3))
        with pytest.raises(ModelError, match="even one text"):
            encoder.encode_passages(TEXTS)

    def test_a_damaged_folder_is_named(self, e5: LocalModel, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(e5.folder, tmp_path / "copy"))
        (folder / "model.safetensors").write_bytes(b"")
        with pytest.raises(ModelError, match=re.escape(str(folder))) as error:
            SentenceEncoder.open(LocalModel("local-dir:copy", folder, folder / "model.safetensors", "0"), "cpu")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompts", "default", "name", "expected"),
    [
        ({}, None, "some-model", ("", "")),
        ({"query": "q: ", "document": "d: ", "passage": "p: "}, None, "some-model", ("q: ", "d: ")),
        ({"query": "q: ", "passage": "p: "}, None, "e5-base", ("q: ", "p: ")),
        ({"ask": "a: "}, "ask", "some-model", ("a: ", "a: ")),
        ({"query": "", "document": ""}, None, "multilingual-e5-small", ("query: ", "passage: ")),
        ({}, None, "e5-large-v2", ("query: ", "passage: ")),
        ({}, None, "multilingual-e5-large-instruct", ("", "")),
        ({}, None, "bge-small-en-v1.5", ("Represent this sentence for searching relevant passages: ", "")),
        ({}, None, "bge-m3", ("", "")),
    ],
)
def test_prompts_come_from_the_folder_or_the_family(
    prompts: dict[str, str | None], default: str | None, name: str, expected: tuple[str, str]
) -> None:
    assert chosen_prompts(prompts, default, name) == expected


def test_an_export_is_cached(clip: LocalModel, clip_text: Path, cache: Path, children: list[str]) -> None:
    before, said = len(children), []
    assert ensure_part(clip, "clip-text", cache, say=said.append) == clip_text
    assert len(children) == before and not said
    assert clip_text.parent.parent == cache / "query"
    assert clip_text.parent.name.startswith("ViT-tiny-")
    assert not list(clip_text.parent.parent.glob(".*"))


def test_other_weights_need_another_export(clip: LocalModel, clip_text: Path, cache: Path) -> None:
    other = dataclasses.replace(clip, sha256="0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_cache, "exporting", lambda *_, **__: pytest.fail("exporting"))
        with pytest.raises(pytest.fail.Exception, match="exporting"):
            ensure_part(other, "clip-text", cache, say=ignore)


def test_a_tokenizer_of_another_kind_is_refused(clip: LocalModel, cache: Path, tmp_path: Path) -> None:
    config = json.loads((clip.folder / "open_clip_config.json").read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"strip_sep_token": True}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(clip.weights, tmp_path)
    odd = LocalModel("local-dir:odd", tmp_path, tmp_path / clip.weights.name, "odd")
    with pytest.raises(SystemExit, match="strip_sep_token"):
        ensure_part(odd, "clip-text", cache, say=ignore)
    assert not list((cache / "query").glob("*odd*/"))


def test_a_graph_that_disagrees_is_refused() -> None:
    rows = np.eye(4, dtype=np.float32)
    check_parity(rows, rows)
    with pytest.raises(RuntimeError, match="disagrees"):
        check_parity(rows, rows + np.float32(0.01))
    with pytest.raises(RuntimeError, match="disagrees"):
        check_parity(np.full_like(rows, np.nan), rows)


def test_images_rank_by_plain_cosine(clip: LocalModel, clip_text: Path) -> None:
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder

    prior = visual_prior(lambda: OpenClipEncoder.open(clip.folder, threads=1, devices=["cpu"]), clip_text, 1.0)
    assert not prior.query_mean.any()
    assert prior.weight == 1.0 and prior.spread > 0
    expected = TextEncoder.open(clip_text).encode(background_queries())
    assert np.allclose(prior.background, expected, atol=1e-5)


def test_sentences_are_centred_on_both_sides(e5_text: Path) -> None:
    prior = text_prior(e5_text, 0.4)
    encoder = TextEncoder.open(e5_text)
    queries = encoder.encode([f"query: {text}" for text in background_queries()])
    assert np.allclose(prior.query_mean, queries.mean(axis=0), atol=1e-5)
    assert np.allclose(prior.mean, encoder.encode_passages(sentences()).mean(axis=0), atol=1e-5)
    assert prior.weight == 0.4


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("BAAI/bge-m3", "bge-m3"),
        ("ViT-B-32-256:datacomp_s34b_b86k", "ViT-B-32-256-datacomp_s34b_b86k"),
        ("local-dir:/models/mine/", "mine"),
        ("local-dir:../..", "model"),
    ],
)
def test_a_model_s_name_is_safe_as_a_file_name(reference: str, name: str) -> None:
    assert LocalModel(reference, Path(), Path(), "").name == name
