"""CLAP models: vectors of sounds and of texts equal those of transformers; what is no such model is one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import exports_in_this_process
from tiny_clap import DIM, FEATURES, make_clap
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from vfindex.indexer.models.export.cache import ensure_part
from vfindex.indexer.models.export.graph import PARITY
from vfindex.indexer.models.priors import SOUND_VECTORS, audio_prior
from vfindex.indexer.models.sound.clap import ClapEncoder
from vfindex.indexer.models.sound.mel import Sound
from vfindex.indexer.models.store import LocalModel, locate
from vfindex.storage.encoders.text import TextEncoder, read_meta
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

TEXTS = ["a dog barks", "", "  Rain &amp; thunder\r\n", "犬が吠える ½ 🐶", "noise " * 300]


@pytest.fixture(scope="module", autouse=True)
def exports_here() -> Iterator[None]:
    with exports_in_this_process():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clap(tmp_path_factory.mktemp("models") / "tiny-clap")


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return locate("audio", f"local-dir:{folder}", tmp_path_factory.mktemp("manifests"))


@pytest.fixture(scope="module")
def text_folder(model: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_part(model, "clap-text", tmp_path_factory.mktemp("cache"), say=lambda _: None)


def sounds() -> list[Sound]:
    random = np.random.default_rng(0)
    return [(random.standard_normal(n) * 4000).astype(np.int16) for n in (480_000, 30_000, 480_000, 200_000, 24_000)]


def cosines(one: FloatArray, other: FloatArray) -> FloatArray:
    assert one.shape == other.shape
    return np.asarray((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1))


def test_vectors_of_sounds_equal_those_of_transformers(folder: Path) -> None:
    """More sounds than one batch holds, of several lengths."""
    encoder = ClapEncoder.open(folder, threads=1)
    assert (encoder.rate_hz, encoder.window_s, encoder.dim) == (48_000, 10.0, DIM)
    found = encoder.encode_sounds(sounds())
    network, extractor = ClapModel.from_pretrained(folder).eval(), ClapFeatureExtractor.from_pretrained(folder)
    floats = [sound / 32768 for sound in sounds()]
    given = extractor(floats, sampling_rate=48_000, return_tensors="pt")
    with torch.inference_mode():
        heard = network.audio_model(input_features=given["input_features"].float())
        expected = network.audio_projection(heard.pooler_output).numpy()
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert cosines(found, expected).min() > PARITY
    assert cosines(found[:1], expected[3:4])[0] < 0.99999, "the sounds differ"
    assert encoder.encode_sounds([]).shape == (0, DIM)


def test_vectors_of_texts_equal_those_of_transformers(folder: Path, text_folder: Path) -> None:
    encoder = TextEncoder.open(text_folder)
    assert (encoder.dim, encoder.templates) == (DIM, ("{}", "This is a sound of {}."))
    network, tokenizer = ClapModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    from vfindex.storage.encoders.text import readable

    given = tokenizer(list(map(readable, TEXTS)), padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.inference_mode():
        read = network.text_model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        expected = network.text_projection(read.pooler_output).numpy()
    assert cosines(encoder.encode(TEXTS), expected).min() > PARITY
    assert cosines(encoder.encode(TEXTS[:1]), expected[:1])[0] > PARITY, "without padding"


def test_an_export_that_differs_from_torch_is_refused(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfindex.indexer.models.export import clap

    shuffled = clap.captions_by_transformers
    monkeypatch.setattr(clap, "captions_by_transformers", lambda *given: shuffled(*given)[::-1].copy())
    with pytest.raises(RuntimeError, match="disagrees with torch"):
        ensure_part(model, "clap-text", tmp_path, say=lambda _: None)


def test_its_prior_is_of_sounds_that_are_about_nothing(text_folder: Path) -> None:
    prior = audio_prior(text_folder, 0.0)
    heard = np.load(text_folder.parent / SOUND_VECTORS)
    assert heard.shape[0] >= 20 and np.allclose(prior.mean, heard.mean(axis=0))
    assert prior.spread > 0 and prior.weight == 0 and not prior.query_mean.any()
    assert prior.background.shape[1] == read_meta(text_folder)["dimensions"]


def test_its_identity_is_the_hash_of_its_files(folder: Path, model: LocalModel, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    same = locate("audio", f"local-dir:{copied}", tmp_path / "cache")
    assert same.sha256 == model.sha256
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps({**settings, "frequency_min": 60}))
    assert locate("audio", f"local-dir:{copied}", tmp_path / "cache").sha256 != model.sha256


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_one_sentence(name: str, folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    (copied / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} is missing; repair it, or name another folder"):
        locate("audio", f"local-dir:{copied}", tmp_path / "cache")


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    weights = load_file(copied / "model.safetensors")
    del weights["audio_projection.linear1.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"not the weights of this CLAP model: 1 are missing, as .*audio_projection"):
        ClapEncoder.open(copied, threads=1)


def test_models_with_feature_fusion_are_refused(tmp_path: Path) -> None:
    fused = make_clap(
        tmp_path / "fused", enable_fusion=True, fusion_type="aff_2d", features={**FEATURES, "truncation": "fusion"}
    )
    with pytest.raises(ModelError, match="feature fusion, which vfindex does not support"):
        ClapEncoder.open(fused, threads=1)


def test_damaged_weights_are_no_vectors(folder: Path) -> None:
    encoder = ClapEncoder.open(folder, threads=1)
    with torch.no_grad():
        encoder._network.audio_projection.linear2.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="no numbers"):
        encoder.encode_sounds(sounds()[:1])


def test_a_batch_is_halved_when_memory_runs_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ClapEncoder.open(folder, threads=1)
    expected, encode, sizes = encoder.encode_sounds(sounds()), encoder._encode, list[int]()

    def scarce(of: Sequence[Sound]) -> FloatArray:
        sizes.append(len(of))
        if len(of) > 1:
            raise torch.OutOfMemoryError
        return encode(of)

    monkeypatch.setattr(encoder, "_encode", scarce)
    assert np.allclose(encoder.encode_sounds(sounds()), expected, atol=1e-5)
    assert sizes == [4, 2, 1, 1, 1, 1, 1]
    monkeypatch.setattr(encoder, "_encode", lambda of: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(ModelError, match="not enough memory on the GPU to encode even one sound"):
        encoder.encode_sounds(sounds()[:1])
