"""Models on disk: found by name, refused in one sentence if incomplete, hashed once."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import re
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
from fake_hub import safetensors, sentence_files

from vfindex.indexer.models import store
from vfindex.indexer.models.catalog import CARDS, OPEN_CLIP, OPENAI_SHA256, SENTENCES, find_card, kind_of
from vfindex.indexer.models.integrity import find_damage
from vfindex.indexer.models.packages import check_embedded
from vfindex.indexer.models.presets import PRESETS
from vfindex.indexer.models.store import (
    are_present,
    check,
    folder_of,
    known_models,
    locate,
    read_manifest,
)
from vfindex.storage.errors import ModelError, UsageError

PE = "PE-Core-B-16:meta"


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def open_clip_files(text_cfg: dict[str, object] | None = None) -> dict[str, bytes]:
    config = json.dumps({"model_cfg": {"text_cfg": text_cfg or {}}, "preprocess_cfg": {}}).encode()
    return {"open_clip_config.json": config, "open_clip_model.safetensors": safetensors(3)}


def ctranslate2_model(variables: int = 2) -> bytes:
    """Return a model.bin in CTranslate2's format, of variables of three numbers."""
    name, spec = b"encoder/weight\0", b"WhisperSpec\0"
    out = struct.pack("<IH", 6, len(spec)) + spec + struct.pack("<II", 3, variables)
    for _ in range(variables):
        out += struct.pack("<H", len(name)) + name + struct.pack("<BIBI", 1, 3, 0, 12) + bytes(12)
    return out + struct.pack("<IH", 1, 2) + b"a\0" + struct.pack("<H", len(name)) + name  # one alias


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("data.pkl", b"x" * 500)
    return buffer.getvalue()


@pytest.fixture
def pe(tmp_path: Path) -> Path:
    """Return a model folder that was filled by hand."""
    return fill(tmp_path / "models" / "PE-Core-B-16--meta", open_clip_files())


def test_every_model_of_a_preset_has_a_card() -> None:
    for preset in PRESETS.values():
        for kind, reference in preset.models.items():
            card = find_card(kind, reference)
            assert card in CARDS
            assert card.kind == kind_of(reference) == kind
            assert card.licence
            assert card.size_bytes
            assert bool(card.gflop) == (kind == "visual")
            assert bool(card.dim) == (kind != "speech")


def test_revisions_are_full_commit_hashes() -> None:
    for card in CARDS:
        assert card.revision is None or re.fullmatch(r"[0-9a-f]{40}", card.revision)
        assert bool(card.package) != bool(card.repository)
    assert len({card.slug for card in CARDS}) == len(CARDS)


def test_openai_hashes_equal_those_of_its_package() -> None:
    spec = importlib.util.find_spec("whisper")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")  # importing it imports torch
    table = dict(re.findall(r'"([\w.-]+)": "https://\S+/([0-9a-f]{64})/\S+\.pt"', source))
    assert OPENAI_SHA256.items() <= table.items()


@pytest.mark.parametrize(
    ("reference", "kind", "repository"),
    [
        ("ViT-L-14:laion2b_s32b_b82k", "visual", ""),
        ("sentence-transformers/all-mpnet-base-v2", "text", "sentence-transformers/all-mpnet-base-v2"),
        ("whisper-tiny", "speech", "Systran/faster-whisper-tiny"),
        ("openai-whisper:tiny", "speech", "https://openaipublic.azureedge.net/main/whisper/models/6514"),
    ],
)
def test_names_without_a_card_are_recognised(reference: str, kind: str, repository: str) -> None:
    assert kind_of(reference) == kind
    assert find_card(kind_of(reference), reference).repository.startswith(repository)


@pytest.mark.parametrize(
    "reference",
    ["", "nonsense", "whisper-huge", "openai-whisper:huge", "../x/y", "a/../b", "a/b/c", "local-dir:", "a:b:c"],
)
def test_other_names_are_refused(reference: str) -> None:
    for kind in ("visual", "text", "speech"):
        with pytest.raises(UsageError, match="known are: "):
            find_card(kind, reference)  # type: ignore[arg-type]  # the loop's kinds are words to mypy
    with pytest.raises(UsageError):
        kind_of(reference)


def test_only_model_files_of_a_repository_are_selected() -> None:
    files = [*sentence_files(), "model-00001-of-00002.safetensors", "2_Dense/model.safetensors", "2_Dense/config.json"]
    files += ["2_Dense/pytorch_model.bin", "sentencepiece.bpe.model", "1_Pooling/../../config.json", "/config.json"]
    assert set(SENTENCES.select(files)) == {
        "model.safetensors",
        "modules.json",
        "config.json",
        "tokenizer.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "sentencepiece.bpe.model",
    }
    parted = SENTENCES.select(["model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
    assert parted == ["model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    assert (
        OPEN_CLIP.select(["open_clip_pytorch_model.bin", "open_clip_config.json"])[0] == "open_clip_pytorch_model.bin"
    )


def test_a_folder_filled_by_hand_is_hashed_once(pe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = locate("visual", PE, tmp_path)
    assert (model.folder, model.weights) == (pe, pe / "open_clip_model.safetensors")
    manifest = read_manifest(find_card("visual", PE), tmp_path)
    assert manifest is not None
    assert not manifest.pulled
    monkeypatch.setattr(store, "_sha256", None)
    assert locate("visual", PE, tmp_path) == model
    assert are_present({"visual": PE, "text": "all-MiniLM-L6-v2"}, tmp_path)
    assert not are_present({"visual": PE, "text": "BAAI/bge-m3"}, tmp_path)


def test_every_file_that_changes_vectors_changes_the_hash(pe: Path, tmp_path: Path) -> None:
    before = locate("visual", PE, tmp_path).sha256
    fill(pe, {"README.md": b"more"})
    assert locate("visual", PE, tmp_path).sha256 == before
    fill(pe, {"open_clip_config.json": b'{"preprocess_cfg": {"mean": 0}}'})
    after = locate("visual", PE, tmp_path).sha256
    assert after != before
    fill(pe, {"tokenizer_config.json": b"{}"})
    assert locate("visual", PE, tmp_path).sha256 not in (before, after)
    fill(pe, {"open_clip_model.safetensors": safetensors(4)})
    assert locate("visual", PE, tmp_path).sha256 not in (before, after)


def test_a_local_dir_works_alike_and_is_not_written_to(pe: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    model = locate("visual", f"local-dir:{pe}", cache)
    assert model.sha256 == locate("visual", PE, tmp_path).sha256
    os.remove(pe / "vfindex.json")
    locate("visual", f"local-dir:{pe}", cache)
    assert {path.name for path in pe.iterdir()} == set(open_clip_files())
    with pytest.raises(ModelError, match="no such folder, or it is empty; name one that holds a speech model"):
        locate("speech", f"local-dir:{tmp_path / 'nowhere'}", cache)


def test_an_absent_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate("visual", PE, tmp_path)
    assert str(caught.value) == (
        f"the model {PE} is not on this machine; run: vfindex models pull {PE}, or put its files into "
        f"{tmp_path}/models/PE-Core-B-16--meta, or use --preset lite, which needs none"
    )


def test_missing_files_are_named(pe: Path, tmp_path: Path) -> None:
    os.remove(pe / "open_clip_config.json")
    with pytest.raises(ModelError, match=r"open_clip_config\.json is missing; run: vfindex models pull PE-Core"):
        locate("visual", PE, tmp_path)
    assert not are_present({"visual": PE}, tmp_path)
    fill(pe, open_clip_files({"hf_tokenizer_name": "some/where"}))
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        locate("visual", PE, tmp_path)


def test_a_sentence_model_needs_the_files_of_its_modules(tmp_path: Path) -> None:
    folder = fill(tmp_path / "model", {**sentence_files(), "README.md": b""})
    reference = f"local-dir:{folder}"
    before = locate("text", reference, tmp_path)
    fill(folder, {"1_Pooling/config.json": b'{"pooling_mode_cls_token": true}'})
    assert locate("text", reference, tmp_path).sha256 != before.sha256
    os.remove(folder / "1_Pooling" / "config.json")
    with pytest.raises(ModelError, match=r"1_Pooling/config\.json is missing; repair it, or name another folder"):
        locate("text", reference, tmp_path)


def test_a_pickle_is_refused_if_safetensors_exist(pe: Path, tmp_path: Path) -> None:
    os.rename(pe / "open_clip_model.safetensors", pe / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"is a pickle, .* add open_clip_model\.safetensors from timm/PE-Core-B-16"):
        locate("visual", PE, tmp_path)
    folder = fill(tmp_path / "own", {**open_clip_files(), "open_clip_pytorch_model.bin": archive()})
    assert locate("visual", f"local-dir:{folder}", tmp_path).weights.name == "open_clip_model.safetensors"
    os.remove(folder / "open_clip_model.safetensors")
    assert locate("visual", f"local-dir:{folder}", tmp_path).weights.name == "open_clip_pytorch_model.bin"


def test_a_speech_folder_may_be_of_either_back_end(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "vocabulary.json": b"[]", "model.bin": ctranslate2_model()}
    fill(tmp_path / "models" / "whisper-base", files)
    assert locate("speech", "whisper-base", tmp_path).weights.name == "model.bin"
    fill(tmp_path / "models" / "whisper-large-v3-turbo", files)
    with pytest.raises(ModelError, match=r"preprocessor_config\.json is missing"):
        locate("speech", "whisper-large-v3-turbo", tmp_path)
    folder = fill(tmp_path / "checkpoint", {"mine.pt": archive()})
    assert locate("speech", f"local-dir:{folder}", tmp_path).weights == folder / "mine.pt"
    fill(tmp_path / "models" / "openai-whisper--base", {"base.pt": archive()})
    with pytest.raises(
        ModelError, match=r"base\.pt: its sha256 is not the one that the publisher names; run: vfindex models"
    ):
        locate("speech", "openai-whisper:base", tmp_path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.safetensors", safetensors(100)),
        ("model.bin", ctranslate2_model()),
        ("a.pt", archive()),
        ("pytorch_model.bin", archive()),
        ("a.json", b'{"a": [1, 2]}'),
    ],
)
def test_truncation_anywhere_is_detected(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert find_damage(path) is None
    for size in sorted({0, 1, 9, len(data) // 3, len(data) // 2, len(data) - 1}):
        path.write_bytes(data[:size])
        assert find_damage(path), f"{size} of {len(data)} bytes"


def test_a_truncated_model_is_refused(pe: Path, tmp_path: Path) -> None:
    fill(pe, {"open_clip_model.safetensors": safetensors(3)[:-1]})
    with pytest.raises(ModelError, match=r"model\.safetensors has \d+ bytes, but its header says \d+; run: "):
        locate("visual", PE, tmp_path)


def test_check_finds_a_change_that_kept_size_and_time(pe: Path, tmp_path: Path) -> None:
    model = check("visual", PE, tmp_path)
    status = model.weights.stat()
    spoilt = bytearray(model.weights.read_bytes())
    spoilt[-1] ^= 1
    model.weights.write_bytes(spoilt)
    os.utime(model.weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert locate("visual", PE, tmp_path) == model
    with pytest.raises(ModelError, match="is damaged: its content changed, its size and time did not; run: "):
        check("visual", PE, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "files": {"../x": {}}}'])
def test_an_unreadable_manifest_is_rewritten(pe: Path, tmp_path: Path, text: str) -> None:
    model = locate("visual", PE, tmp_path)
    (pe / "vfindex.json").write_text(text)
    assert locate("visual", PE, tmp_path) == model
    assert json.loads((pe / "vfindex.json").read_text())["reference"] == PE


def test_models_without_a_card_are_listed_by_their_manifest(tmp_path: Path) -> None:
    assert known_models(tmp_path) == list(CARDS)
    fill(tmp_path / "models" / "some--thing", sentence_files())
    locate("text", "some/thing", tmp_path)
    assert [card.reference for card in known_models(tmp_path)[len(CARDS) :]] == ["some/thing"]


def test_embedded_models_match_their_packages(tmp_path: Path) -> None:
    for card in CARDS:
        if card.package:
            check_embedded(card, tmp_path)
            with pytest.raises(ModelError, match="comes inside the package"):
                folder_of(card, tmp_path)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_cache_may_be_read_only(pe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Its files may have other times than when they were hashed, as copies have."""
    model = locate("visual", PE, tmp_path)
    kept = (pe / "vfindex.json").read_bytes()
    os.utime(model.weights, ns=(1, 1))

    def refused(*_: object, **__: object) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    assert locate("visual", PE, tmp_path) == check("visual", PE, tmp_path) == model
    assert (pe / "vfindex.json").read_bytes() == kept
    (pe / "open_clip_model.safetensors").write_bytes(safetensors(4))
    assert locate("visual", PE, tmp_path) != model


def test_a_cache_that_cannot_be_written_is_named(pe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ModelError, match=r"vfindex\.json: cannot be written \(No space left on device\)"):
        locate("visual", PE, tmp_path)
    assert {path.name for path in pe.iterdir()} == set(open_clip_files())
