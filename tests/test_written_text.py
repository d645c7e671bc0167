"""Text on the screen from the frames to the hits: `written:`, its place, an upgrade, and a machine without OCR."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from equality import contents
from media import Shot, make_video, media_folder
from written import picture

from vfindex.cli.render.explain import explained
from vfindex.indexer.extractors import ocr
from vfindex.indexer.extractors.screen import TAP
from vfindex.indexer.media.decoder import Decoder, Tap
from vfindex.indexer.models import presets
from vfindex.indexer.models.presets import WITH_EXTRAS, Choice
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.search.engine import SearchEngine
from vfindex.search.service import SearchService
from vfindex.storage.encoders.image import LiteImageEncoder
from vfindex.storage.errors import ModelError
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Segment

pytest.importorskip("rapidocr")
NAME = "screen"


@pytest.fixture
def video(tmp_path: Path) -> bytes:
    """Return a video of 6 s with two lines, and 6 s with another."""
    first = picture(("HARBOUR MUSEUM", 40, 60), ("open daily", 40, 280))
    shots = [Shot(length_s=6, picture=first), Shot(length_s=6, picture=picture(("Thank you", 220, 160), ground=90))]
    options: dict[str, Any] = {"shots": shots, "width": 640, "height": 360, "fps": 10, "keyframe_s": 2.0}
    return os.fsencode(make_video(tmp_path / "v001.mp4", codec_options={"qscale": "2"}, **options))


@pytest.fixture
def settings(models_cache: Path) -> RunSettings:
    return RunSettings(cache=models_cache, choice=Choice("lite"), asr=False, workers=1)


def without_ocr(patch: pytest.MonkeyPatch) -> None:
    """Let the machine have no OCR."""
    patch.setattr(presets, "WITH_EXTRAS", MappingProxyType({}))
    patch.setattr(ocr, "find_spec", lambda _: None)


def test_text_is_found_with_its_time_and_place(tmp_path: Path, video: bytes, settings: RunSettings) -> None:
    folder = tmp_path / "lib"
    assert ingest(folder, [video], settings).indexed == 1
    engine = SearchEngine.open(folder)
    [museum], [thanks] = engine.search("written:museum"), engine.search('written:"thank you"')
    [match], [other] = museum.matches, thanks.matches
    assert match.start_s == 0 and match.end_s == pytest.approx(6, abs=0.5)
    assert other.start_s == match.end_s and other.end_s == pytest.approx(12, abs=0.5)
    assert (match.text, match.kind, match.track, match.source) == ("HARBOUR MUSEUM", NAME, NAME, "frames")
    assert match.box is not None and match.box[0] == pytest.approx(40 / 640, abs=0.02)
    assert match.box[1] < 80 / 360 < match.box[3]
    assert any("on the screen, top left, x 6-" in line for line in explained(museum))
    assert engine.search("said:museum") == engine.search("titled:museum") == []
    [shown] = engine.search("when can I visit the museum", weights={"visual": 0.0})
    assert (shown.modalities[NAME] or 0) > 0
    assert verify(Library.open(folder)).clean
    assert json.loads(json.dumps(museum.to_dict()))["matches"][0]["box"] == list(match.box)


def test_an_upgrade_adds_it_and_encodes_no_frame_again(
    tmp_path: Path, video: bytes, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib"
    with monkeypatch.context() as patch:
        without_ocr(patch)
        assert ingest(folder, [video], settings).indexed == 1
        with SearchService(folder) as service:
            assert service.status().lacks == (NAME,)
    before, asked, read = contents(folder), [], Decoder.read

    def noted(self: Decoder, path: bytes, **order: Any) -> Any:
        asked.append(order["taps"])
        return read(self, path, **order)

    def never(*_: object) -> Any:
        raise AssertionError("a frame was encoded again")

    monkeypatch.setattr(Decoder, "read", noted)
    monkeypatch.setattr(LiteImageEncoder, "encode_images", never)
    assert ingest(folder, [video], settings).unchanged == 1, "a library without it stays valid"
    report = upgrade(folder, settings)
    assert report.swapped and not report.lost and (report.videos, report.decoded) == (1, 1)
    assert asked == [(TAP,)]
    after = contents(in_use(folder))
    assert before.keys() == after.keys()
    for key, (_, _, vectors) in after.items():
        assert vectors.embeddings.keys() - before[key][2].embeddings.keys() == {NAME}
        assert vectors.frames.tolist() == before[key][2].frames.tolist()
    [museum] = SearchEngine.open(folder).search("written:museum")
    assert museum.matches[0].box is not None
    with SearchService(folder) as service:
        status = service.status()
    assert (status.lacks, status.models[NAME]) == ((), WITH_EXTRAS[NAME][1])
    assert upgrade(folder, settings).version == 0, "it has everything now"


def test_a_machine_without_ocr_says_so_and_adds_nothing(
    tmp_path: Path, video: bytes, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = tmp_path / "lib", os.fsencode(make_video(tmp_path / "v002.mp4"))
    assert ingest(folder, [video], settings).indexed == 1
    without_ocr(monkeypatch)
    with pytest.raises(ModelError, match=r"reading it needs rapidocr, not installed here; run: pip install 'vfindex"):
        ingest(folder, [other], settings)
    assert SearchEngine.open(folder).search("written:museum"), "a search needs no OCR"
    with SearchService(folder) as service:
        status = service.status()
    assert (status.videos, status.problems) == (1, ()), "no file is blamed"


def test_a_preview_has_none_until_the_video_is_read_fully(
    tmp_path: Path, video: bytes, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps: list[Sequence[Tap]] = []
    read = Decoder.read

    def noted(self: Decoder, path: bytes, **order: Any) -> Any:
        taps.append(order["taps"])
        return read(self, path, **order)

    monkeypatch.setattr(Decoder, "read", noted)
    report = ingest(tmp_path / "lib", [video], RunSettings(**{**_fields(settings), "progressive": True}))
    assert report.indexed == 1
    assert [TAP in each for each in taps] == [False, True]
    assert SearchEngine.open(tmp_path / "lib").search("written:museum")


def _fields(settings: RunSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("cache", "choice", "asr", "workers")}


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("v101.mp4", {"DE LONDRES", "OMAR", "Software Engineer"}),
        ("v108.mp4", {"輸出檔案路徑", "Run stitch"}),
        ("v110.mp4", {"negativ getestet", "Termin vereinbart"}),
    ],
)
def test_real_videos(name: str, texts: set[str], tmp_path: Path, settings: RunSettings) -> None:
    path = os.fsencode(media_folder("public") / "videos" / name)
    assert ingest(tmp_path / "lib", [path], settings).indexed == 1
    with Library.open(tmp_path / "lib").snapshot() as snapshot:
        segments: list[Segment] = snapshot.segments(1)
    read = {segment.text for segment in segments if segment.track == NAME}
    assert texts <= read
    assert all(s.box is not None and s.box[0] < s.box[2] and (s.confidence or 0) >= 0.9 for s in segments if s.box)
