"""Toy modalities: a row of the table and an extractor are all that one takes, and one more row if it has a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from equality import contents
from media import Shot, make_video

from vfindex.cli.render.explain import explained
from vfindex.indexer.extractors import registry
from vfindex.indexer.extractors.base import Track, Unit, begins_in
from vfindex.indexer.extractors.chunks import windows
from vfindex.indexer.extractors.registry import Registration
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder, Frame, FrameTap, ReadEnd, Tap
from vfindex.indexer.models import factory, presets
from vfindex.indexer.models.factory import EmbeddingModel, Opening
from vfindex.indexer.models.presets import Choice
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.search.engine import SearchEngine
from vfindex.search.service import SearchService
from vfindex.storage import modalities
from vfindex.storage.encoders.image import LiteImageEncoder
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import Modality, usual_modalities
from vfindex.storage.records import Segment

NAME = "brightness"
MODALITY = Modality(NAME, ("timed_text",), prefix="lit", model="text", weight=0.4, origin="frames")
TAP = FrameTap(48, longest=True, fps=1.0)


class Brightness:
    """An extractor without a model."""

    def begin(self, unit: Unit) -> BrightnessExtraction:
        return BrightnessExtraction(unit)


class BrightnessExtraction:
    taps: Sequence[Tap] = (TAP,)

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._seen: list[tuple[float, str]] = []

    def feed(self, item: Frame | AudioBlock) -> None:
        assert isinstance(item, Frame) and item.tap == TAP
        self._seen.append((item.time_s, "a dark night" if item.pixels.mean() < 100 else "bright sunshine"))

    def finish(self, end: ReadEnd) -> Track:
        ends_s = [*(time_s for time_s, _ in self._seen[1:]), self._unit.video.end_s]
        found = [
            Segment(start_s, max(start_s, end_s), words, "frames", "en", track=NAME)
            for (start_s, words), end_s in zip(self._seen, ends_s, strict=True)
        ]
        said = tuple(segment for segment in found if begins_in(segment, self._unit.plan))
        return Track(f"{len(said)} pictures judged", said, tuple(windows(said)))


@pytest.fixture
def video(tmp_path: Path) -> bytes:
    shots = [Shot("black", 6), Shot("white", 6)]
    return os.fsencode(make_video(tmp_path / "v001.mp4", shots=shots, tone_hz=440.0, keyframe_s=2.0))


@pytest.fixture
def settings(models_cache: Path) -> RunSettings:
    return RunSettings(cache=models_cache, choice=Choice("lite"), workers=1)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch)


def add(patch: pytest.MonkeyPatch) -> None:
    """Add the modality to the table and to the registry."""
    patch.setattr(modalities, "MODALITIES", (*modalities.MODALITIES, MODALITY))
    patch.setitem(registry.EXTRACTORS, NAME, Registration(lambda _: Brightness()))


def test_a_new_library_has_it(tmp_path: Path, video: bytes, settings: RunSettings, toy: None) -> None:
    assert ingest(tmp_path / "lib", [video], settings).indexed == 1
    library = Library.open(tmp_path / "lib")
    with library.snapshot() as snapshot:
        setup = LibraryMeta(snapshot).setup
        said = [segment for segment in snapshot.segments(1) if segment.track == NAME]
        generation = snapshot.generation()
    assert setup is not None and set(setup.models) == set(usual_modalities()) == set(setup.query)
    assert generation is not None and generation.spec.order[-1] == NAME
    assert {segment.text for segment in said} == {"a dark night", "bright sunshine"}
    assert 10 <= len(said) <= 12 and len({int(segment.start_s) for segment in said}) == len(said)
    assert all(NAME in vectors.embeddings for _, _, vectors in contents(tmp_path / "lib").values())
    assert verify(library).clean


def test_its_words_are_found_with_their_times(tmp_path: Path, video: bytes, settings: RunSettings, toy: None) -> None:
    assert ingest(tmp_path / "lib", [video], settings).indexed == 1
    engine = SearchEngine.open(tmp_path / "lib")
    [night], [day] = engine.search("lit:night"), engine.search('lit:"bright sunshine"')
    assert engine.search("said:night") == engine.search("titled:night") == []
    assert engine.search("-lit:night lit:night") == []
    [plain] = engine.search("night", weights={NAME: 0.0})
    assert min(match.start_s or 0.0 for match in day.matches) == pytest.approx(6, abs=1)
    assert max(match.end_s or 0.0 for match in night.matches) == pytest.approx(6, abs=1)
    assert (night.snippet, night.words) == ("a dark night", ("night",))
    assert {(match.text, match.kind, match.source) for match in night.matches} == {("a dark night", NAME, "frames")}
    assert all(match.start_s is not None and match.start_s < night.end_s for match in night.matches)
    assert (night.modalities[NAME] or 0) > 0 and not plain.words
    assert any(line.startswith(NAME) for line in explained(night))


def test_an_upgrade_adds_it_and_decodes_nothing_for_the_others(
    tmp_path: Path, video: bytes, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib"
    assert ingest(folder, [video], settings).indexed == 1
    before = contents(folder)
    asked: list[Sequence[Tap]] = []
    read = Decoder.read

    def noted(self: Decoder, path: bytes, **order: Any) -> Any:
        asked.append(order["taps"])
        return read(self, path, **order)

    def never(*_: object) -> Any:
        raise AssertionError("a frame was encoded again")

    add(monkeypatch)
    monkeypatch.setattr(Decoder, "read", noted)
    monkeypatch.setattr(LiteImageEncoder, "encode_images", never)
    assert status_of(folder)["lacks"] == [NAME]
    [hit] = SearchEngine.open(folder).search("night")
    assert hit.missing[NAME] == "not in this library; to add it: vfindex upgrade"
    assert ingest(folder, [video], settings).unchanged == 1, "a library without it stays valid"
    report = upgrade(folder, settings)
    assert report.swapped and not report.lost and (report.videos, report.decoded) == (1, 1)
    assert asked == [(TAP,)]
    after = contents(in_use(folder))
    assert before.keys() == after.keys()
    for key, (_, _, vectors) in after.items():
        assert vectors.embeddings.keys() - before[key][2].embeddings.keys() == {NAME}
        for modality, vector in before[key][2].embeddings.items():
            assert vector.tolist() == vectors.embeddings[modality].tolist()
        assert vectors.frames.tolist() == before[key][2].frames.tolist()
    assert verify(Library.open(folder)).clean
    assert status_of(folder)["lacks"] == []
    assert upgrade(folder, settings).version == 0, "it has everything now"


LOUDNESS = Modality("loudness", ("audio",), prefix="loud", model="level", weight=0.0, origin="audio")


class LevelModel:
    """A model of its own, "loud" or "quiet" for every second; its questions are encoded as those of the text model."""

    identity = "level 1"

    def __init__(self, text: EmbeddingModel) -> None:
        self._text = text
        self.query, self.query_folder = text.query, text.query_folder

    def prior(self, modality: Modality) -> ModalityPrior:
        return self._text.prior(replace(modality, model="text"))

    def open(self, opening: Opening) -> Any:
        return self._text.open(opening).encode_passages(["a quiet place", "a loud noise"])


class Loudness:
    """An extractor of vectors. levels: (2, dim), of quiet and of loud."""

    taps: Sequence[Tap] = (AudioTap(),)

    def __init__(self, levels: Any) -> None:
        self._levels, self._heard = levels, []

    def begin(self, unit: Unit) -> Loudness:
        return Loudness(self._levels)

    def feed(self, item: Frame | AudioBlock) -> None:
        assert isinstance(item, AudioBlock)
        self._heard.append((item.time_s, item.time_s + len(item.samples) / 16_000, int(np.abs(item.samples).max() > 9)))

    def finish(self, end: ReadEnd) -> Track:
        spans_s = np.array([(start_s, end_s) for start_s, end_s, _ in self._heard])
        return Track("levels", spans_s=spans_s, vectors=self._levels[[level for _, _, level in self._heard]])


def test_a_modality_brings_its_own_model(
    tmp_path: Path, video: bytes, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modalities, "MODALITIES", (*modalities.MODALITIES, LOUDNESS))
    monkeypatch.setattr(presets, "WITH_EXTRAS", {**presets.WITH_EXTRAS, "level": ("numpy", "level-1")})
    monkeypatch.setitem(factory.MODELS, "level", lambda *located: LevelModel(factory.MODELS["text"](*located)))
    opened = Registration(lambda encoders: Loudness(encoders.models["level"]))
    monkeypatch.setitem(registry.EXTRACTORS, LOUDNESS.name, opened)
    folder = tmp_path / "lib"
    assert ingest(folder, [video], settings).indexed == 1
    with Library.open(folder).snapshot() as snapshot:
        setup = LibraryMeta(snapshot).existing_setup()
    assert (setup.models["loudness"], setup.references["level"]) == ("level 1", "level-1")
    assert all("loudness" in vectors.embeddings for _, _, vectors in contents(folder).values())
    engine = SearchEngine.open(folder)
    [loud], [quiet] = engine.search("loud:noise", top_k=1), engine.search('loud:"quiet place"', top_k=1)
    assert (loud.modalities["loudness"] or 0) > (quiet.modalities["loudness"] or 0)
    assert upgrade(folder, settings).version == 0
    assert verify(Library.open(folder)).clean


def status_of(folder: Path) -> dict[str, Any]:
    with SearchService(folder) as service:
        return service.status().to_dict()
