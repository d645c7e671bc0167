"""Every preset but `lite`, end to end, with tiny models in the formats of the real ones, where these are of the hub."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from equality import contents, transcripts
from tiny_models import make_clip, make_siglip
from tiny_sentences import make_e5
from tiny_whisper import convert, make_whisper

from vfindex.indexer.models.catalog import E5_WEIGHTS, find_card
from vfindex.indexer.models.lite import ensure_lite
from vfindex.indexer.models.presets import (
    LITE_TEXT,
    MULTILINGUAL_TEXT,
    PRESETS,
    Choice,
    PresetName,
    better_models,
    same_choice,
)
from vfindex.indexer.models.store import folder_of
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.report import UpgradeReport
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.indexer.speech.whisper import Whisper
from vfindex.search.engine import SearchEngine
from vfindex.storage.errors import LibraryVersion, ModelError, UsageError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.rollback import roll_back
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Setup

SAID = "We grow tomatoes in the garden."
# Of the public collection: short, and one of them with speech.
VIDEOS = ("v007.mp4", "v030.mp4", "v031.mp4")
HUB = [name for name in PRESETS if not name.startswith("lite")]
HAS_E5 = importlib.util.find_spec(E5_WEIGHTS.package) is not None
MULTILINGUAL = pytest.param(
    "lite-multilingual",
    marks=pytest.mark.skipif(not HAS_E5, reason=f"the package {E5_WEIGHTS.package} is not installed"),
)


Maker = Callable[[Path], object]


@pytest.fixture(scope="module")
def stand_ins(models_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with tiny models under the names of all presets' models."""
    cache = tmp_path_factory.mktemp("cache")
    if HAS_E5:
        ensure_lite(models_cache, MULTILINGUAL_TEXT)
    for exported in models_cache.glob("lite-*"):
        (cache / exported.name).symlink_to(exported)
    source = make_whisper(tmp_path_factory.mktemp("whisper"), [0.0, f" {SAID}", 2.0])
    whisper = convert(source, source / "converted")
    for preset in (PRESETS[name] for name in HUB):
        visual, text, speech = preset.models.values()
        _put(cache, "visual", visual, make_siglip if "SigLIP" in visual else make_clip)
        _put(cache, "speech", speech, lambda folder: shutil.copytree(whisper, folder))
        if text != LITE_TEXT:
            _put(cache, "text", text, make_e5)
    return cache


def _put(cache: Path, kind: Literal["visual", "text", "speech"], reference: str, make: Maker) -> None:
    folder = folder_of(find_card(kind, reference), cache)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        make(folder)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "VFINDEX_TEST_MEDIA" not in os.environ:
        pytest.skip("VFINDEX_TEST_MEDIA names no folder of real videos")
    folder = tmp_path_factory.mktemp("videos")
    for name in VIDEOS:
        (folder / name).symlink_to(Path(os.environ["VFINDEX_TEST_MEDIA"]) / "public" / "videos" / name)
    return folder


@pytest.mark.parametrize("name", [*HUB, MULTILINGUAL])
def test_a_preset_indexes_and_finds_a_video(name: PresetName, stand_ins: Path, videos: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    paths = [os.path.realpath(os.fsencode(videos / video)) for video in VIDEOS]
    report = ingest(library, paths, RunSettings(cache=stand_ins, choice=Choice(preset=name), ocr=False, workers=1))
    assert (report.indexed, report.failed, report.partial) == (3, [], [])
    assert verify(Library.open(library)).problems == []
    with Library.open(library).snapshot() as snapshot:
        heard = [each for video in snapshot.videos() for each in snapshot.segments(video.id) if each.source == "asr"]
        counts = snapshot.modality_counts()
    assert {segment.text for segment in heard} == {SAID}, "Whisper was heard"
    assert counts["visual"] == report.clips and counts["speech"] > 0
    hits = SearchEngine.open(library).search("tomatoes in the garden", weights={"visual": 0.0})
    assert hits[0].words == ("tomatoes", "garden") and hits[0].snippet == SAID
    by_picture = SearchEngine.open(library).search("a red car", top_k=3)
    assert len({hit.video for hit in by_picture}) == 3
    assert all(hit.modalities["visual"] is not None for hit in by_picture)
    assert _modules_of_a_search(library).isdisjoint({"torch", "av", "ray", "open_clip", "transformers"})


def _modules_of_a_search(library: Path) -> set[str]:
    program = (
        "import sys; from pathlib import Path; from vfindex.search.engine import SearchEngine\n"
        "assert SearchEngine.open(Path(sys.argv[1])).search('a red car')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", program, str(library)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_new_library_uses_base_if_its_models_are_present(stand_ins: Path, models_cache: Path, tmp_path: Path) -> None:
    for cache, expected in ((stand_ins, "base"), (models_cache, "lite")):
        library = tmp_path / expected
        ingest(library, [], RunSettings(cache=cache))
        with Library.open(library).snapshot() as snapshot:
            assert f'"preset": "{expected}"' in (snapshot.get("setup") or "")


def test_a_changed_local_dir_model_is_refused(stand_ins: Path, videos: Path, tmp_path: Path) -> None:
    own, library = tmp_path / "ViT-B-32-256-datacomp_s34b_b86k", tmp_path / "library"
    make_clip(own)  # under a name whose export the cache has
    choice = Choice(preset="small", visual=f"local-dir:{own}", speech="whisper-tiny.en")
    video = os.path.realpath(os.fsencode(videos / VIDEOS[0]))
    assert ingest(library, [video], RunSettings(cache=stand_ins, choice=choice)).indexed == 1
    other = Choice(visual="PE-Core-B-16:meta")
    with pytest.raises(UsageError, match=r"was made with --visual local-dir:.*vfindex upgrade --visual PE-Core"):
        ingest(library, [], RunSettings(cache=stand_ins, choice=other))
    weights = own / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\x80?")
    further = os.path.realpath(os.fsencode(videos / VIDEOS[1]))
    with pytest.raises(LibraryVersion, match="other models"):
        ingest(library, [further], RunSettings(cache=stand_ins))


def test_a_library_is_upgraded_to_other_models(
    stand_ins: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    paths = [os.path.realpath(os.fsencode(videos / video)) for video in VIDEOS]
    ingest(library, paths, RunSettings(cache=stand_ins, choice=Choice(preset="small"), ocr=False, workers=1))
    small, told_of_small = contents(library), coverage(library)
    hits: list[tuple[int, ...]] = []

    def over(choice: Choice) -> UpgradeReport:
        return upgrade(library, RunSettings(cache=stand_ins, choice=choice, workers=1), compare=compare)

    def compare(old: Path, new: Path) -> None:
        hits.append(tuple(len(SearchEngine.open(folder).search("a dog")) for folder in (old, new)))

    heard = over(Choice(speech="whisper-small"))
    # Two of the three have no sound: nothing of them is read.
    assert (heard.swapped, heard.heard, heard.taken_over, heard.decoded, heard.lost) == (True, 1, 2, 0, [])
    assert coverage(library) == told_of_small
    for key, (start_s, end_s, vectors) in contents(library).items():
        assert (start_s, end_s) == small[key][:2]
        assert vectors.frames.tolist() == small[key][2].frames.tolist()
    with monkeypatch.context() as patch:
        patch.setattr(Whisper, "transcriber", None)  # what was heard holds
        report = over(Choice(visual=PRESETS["multilingual"].models["visual"]))
    assert (report.before["speech"], report.after["speech"]) == ("whisper-small", "whisper-small")
    assert (report.swapped, report.decoded, report.transcripts_reused, report.heard) == (True, 3, 3, 0)
    dims = {len(vectors.embeddings["visual"]) for _, _, vectors in contents(library).values()}
    assert dims != {len(vectors.embeddings["visual"]) for _, _, vectors in small.values()}
    assert transcripts(library) == transcripts(library / "editions" / "1")
    assert hits == [(3, 3), (3, 3)]
    assert verify(Library.open(library)).problems == []
    assert roll_back(library) == library / "editions" / "1"
    assert verify(Library.open(library)).problems == []


def coverage(folder: Path) -> dict[str, list[Mapping[str, str]]]:
    with Library.open(folder).snapshot() as snapshot:
        return {video.fingerprint: snapshot.coverage(video.id) for video in snapshot.videos()}


def test_a_preset_with_absent_models_says_what_to_do(models_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="run: vfindex models pull large, or use --preset lite"):
        ingest(tmp_path / "library", [], RunSettings(cache=models_cache, choice=Choice(preset="large")))


def test_a_library_may_have_a_model_that_its_preset_does_not_name() -> None:
    names = {**PRESETS["lite"].models, "screen": "an-ocr"}
    setup = Setup("lite", {}, {}, "auto", 0.7, 1.0, names)
    assert same_choice(setup) == Choice("lite")
    assert better_models(setup) is not None
    other = replace(setup, references={**names, "text": "another"})
    assert same_choice(other) == Choice("lite", text="another")
    assert better_models(other) is None
