"""Text on the screen from the frames to the hits: `written:`, its place, an upgrade, and a machine without OCR."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
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
from vfindex.indexer.options import Sampling
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.run import Callbacks
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
UNREAD = "not read: OCR was off or not installed"


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
    patch.setattr(presets, "find_spec", lambda _: None)
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
        said: list[str] = []
        assert ingest(folder, [video], settings, Callbacks(say=said.append)).indexed == 1
        assert said[-1].startswith("OCR is not installed here, so this library has no text on the screen; to add it")
        assert said[-1].endswith("pip install 'vfindex[ocr]', then: vfindex upgrade")
        with SearchService(folder) as service:
            assert service.status().lacks == (NAME,)
        hits = SearchEngine.open(folder).search("written:museum")
        assert not hits and [hint.kind for hint in hits.hints] == ["lacking"]
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


def test_a_machine_without_ocr_goes_on_and_an_upgrade_reads_what_it_left(
    tmp_path: Path, video: bytes, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib"
    gates = [Shot(length_s=4, picture=picture(("GARDEN GATE", 40, 60)))]
    other = os.fsencode(make_video(tmp_path / "v002.mp4", shots=gates, width=640, height=360, fps=10))
    assert ingest(folder, [video], settings).indexed == 1
    said: list[str] = []
    with monkeypatch.context() as patch:
        without_ocr(patch)
        assert ingest(folder, [other], settings, Callbacks(say=said.append)).indexed == 1
        assert any("OCR is not installed here" in line and "pip install 'vfindex[ocr]'" in line for line in said)
        assert SearchEngine.open(folder).search("written:museum"), "a search needs no OCR"
        assert coverage(folder, "v002.mp4") == UNREAD
        assert upgrade(folder, settings).version == 0, "the text that is there stays, and there is no OCR"
        with pytest.raises(ModelError, match="--ocr needs rapidocr, not installed here; run: pip install"):
            ingest(folder, [other], replace(settings, ocr=True))
    assert not SearchEngine.open(folder).search("written:gate")
    said.clear()
    ingest(folder, [other], settings, Callbacks(say=said.append))
    assert [line for line in said if line.startswith("1 video without text on the screen")]
    assert said[-1].endswith("to read it: vfindex upgrade")
    asked, read = [], Decoder.read

    def noted(self: Decoder, path: bytes, **order: Any) -> Any:
        asked.append((path, order["taps"]))
        return read(self, path, **order)

    monkeypatch.setattr(Decoder, "read", noted)
    report = upgrade(folder, settings)
    assert (report.swapped, report.decoded, report.taken_over) == (True, 1, 1)
    assert asked == [(other, (TAP,))]
    [gate] = SearchEngine.open(folder).search("written:gate")
    assert gate.video == other and SearchEngine.open(folder).search("written:museum")
    assert upgrade(folder, settings).version == 0, "everything is read now"


def test_a_library_keeps_its_text_when_a_machine_without_ocr_changes_its_frames(
    tmp_path: Path, video: bytes, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib"
    assert ingest(folder, [video], settings).indexed == 1
    without_ocr(monkeypatch)
    report = upgrade(folder, replace(settings, sampling=Sampling.parse("2")))
    assert (report.swapped, report.decoded) == (True, 1)
    [museum] = SearchEngine.open(folder).search("written:museum")
    assert museum.matches[0].box is not None and museum.modalities[NAME]


def test_no_ocr_is_remembered_until_it_is_asked_for(tmp_path: Path, video: bytes, settings: RunSettings) -> None:
    folder = tmp_path / "lib"
    other = os.fsencode(make_video(tmp_path / "v002.mp4"))
    assert ingest(folder, [video], replace(settings, ocr=False)).indexed == 1
    assert ingest(folder, [other], settings).indexed == 1
    assert coverage(folder, "v001.mp4") == coverage(folder, "v002.mp4") == UNREAD
    assert upgrade(folder, settings).version == 0, "nor does an upgrade read it"
    assert ingest(folder, [video], replace(settings, ocr=True)).unchanged == 1
    assert upgrade(folder, settings).decoded == 2
    assert SearchEngine.open(folder).search("written:museum")


def test_an_upgrade_says_that_the_text_it_adds_is_left_out(
    tmp_path: Path, video: bytes, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library from before, whose owner wants none."""
    folder = tmp_path / "lib"
    with monkeypatch.context() as patch:
        without_ocr(patch)
        assert ingest(folder, [video], settings).indexed == 1
    assert ingest(folder, [video], replace(settings, ocr=False)).unchanged == 1
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "probe", None)
        report = upgrade(folder, settings, Callbacks(say=said.append))
    assert (report.swapped, report.taken_over, report.decoded) == (True, 1, 0), "no file is opened"
    assert [
        line for line in said if line.startswith("without text on the screen, which --no-ocr left out; to add it: ")
    ]
    assert coverage(folder, "v001.mp4") == UNREAD
    assert upgrade(folder, settings).version == 0
    ingest(folder, [video], replace(settings, ocr=True))
    assert upgrade(folder, settings).decoded == 1
    assert SearchEngine.open(folder).search("written:museum")
    assert upgrade(folder, settings).version == 0


def coverage(folder: Path, name: str) -> str:
    """Return what a video's only unit says of its text on the screen."""
    with SearchService(folder) as service:
        [unit] = service.video(name).coverage
    return unit[NAME]


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


# --- burnt-in subtitles ---------------------------------------------------------------------------------------------

SUBTITLES = (
    "1\n00:00:00,100 --> 00:00:04,900\nWe grow tomatoes in the garden.\n\n"
    "2\n00:00:05,100 --> 00:00:09,900\nThe harbour museum opens at nine.\n"
)
LINES = ("we grow tomatoes in the garden", "the harbour museum opens at nine")


def with_subtitles(path: Path, lines: Sequence[tuple[str, float]]) -> Path:
    """Make a video with these lines burnt in, (text, seconds shown)."""
    shots = [Shot(length_s=length_s, picture=picture((text, 20, 310), size_px=24)) for text, length_s in lines]
    return make_video(path, shots=shots, width=640, height=360, fps=10, codec_options={"qscale": "2"})


def in_clips(folder: Path) -> set[str]:
    """Return the modalities that clips of the only video have."""
    with SearchService(folder) as service:
        [video] = service.videos().videos
        return {modality for clip in service.video(video.fingerprint).clips for modality in clip.modalities}


def test_burnt_in_subtitles_count_once_beside_a_sidecar(tmp_path: Path, settings: RunSettings) -> None:
    made = with_subtitles(tmp_path / "v001.mp4", [(text, 5.0) for text in LINES])
    (tmp_path / "v001.srt").write_text(SUBTITLES)
    assert ingest(tmp_path / "both", [os.fsencode(made)], settings).indexed == 1
    (tmp_path / "v001.srt").unlink()
    assert ingest(tmp_path / "burnt", [os.fsencode(made)], settings).indexed == 1
    assert in_clips(tmp_path / "both") == {"visual", "speech"} and in_clips(tmp_path / "burnt") == {"visual", NAME}
    for folder in (tmp_path / "both", tmp_path / "burnt"):
        engine = SearchEngine.open(folder)
        assert engine.search("written:tomatoes") and engine.search('written:"opens at nine"')
        [hit] = engine.search("tomatoes in a garden", weights={"visual": 0.0}, top_k=1)
        assert {match.track for match in hit.matches} == ({"speech", NAME} if folder.name == "both" else {NAME})
        counted = {modality: value for modality, value in hit.modalities.items() if value}
        assert counted.keys() == ({"speech"} if folder.name == "both" else {NAME})
    (tmp_path / "v001.srt").write_text(SUBTITLES)
    assert ingest(tmp_path / "burnt", [os.fsencode(made)], settings).reworded == 1
    assert in_clips(tmp_path / "burnt") == {"visual", "speech"}, "as if it had been there"
    (tmp_path / "v001.srt").unlink()
    assert ingest(tmp_path / "both", [os.fsencode(made)], settings).reworded == 1
    assert in_clips(tmp_path / "both") == {"visual", NAME}, "and one that goes"
    for folder in (tmp_path / "both", tmp_path / "burnt"):
        assert SearchEngine.open(folder).search("written:tomatoes") and verify(Library.open(folder)).clean


def test_burnt_in_subtitles_count_once_beside_what_is_recognised(
    tmp_path: Path, settings: RunSettings, models_cache: Path
) -> None:
    source = media_folder("cases") / "c22_surround_centre.mkv"
    heard = replace(settings, asr=True)
    assert ingest(tmp_path / "heard", [os.fsencode(source)], heard).indexed == 1
    with SearchService(tmp_path / "heard") as service:
        info = service.video(source)
    ends_s = [segment.start_s for segment in info.transcript[1:]] + [info.end_s]
    spans = zip([0.0, *ends_s], ends_s, info.transcript, strict=False)
    shown = [(segment.text[:40].rpartition(" ")[0], end_s - start_s) for start_s, end_s, segment in spans]
    silent = with_subtitles(tmp_path / "silent.mp4", shown)
    made = tmp_path / "v001.mkv"
    remux(silent, source, made)
    assert ingest(tmp_path / "lib", [os.fsencode(made)], heard).indexed == 1
    with SearchService(tmp_path / "lib") as service:
        video = service.video("v001.mkv")
    lines = [segment for segment in video.other_text if segment.track == NAME]
    assert len(lines) >= len(shown) > 0 and video.transcript
    assert in_clips(tmp_path / "lib") == {"visual", "speech"}
    assert SearchEngine.open(tmp_path / "lib").search(f'written:"{lines[0].text}"')


def remux(picture_of: Path, sound_of: Path, target: Path) -> None:
    """Write the video of one file and the audio of another."""
    with av.open(picture_of) as one, av.open(sound_of) as other, av.open(target, "w") as out:
        inputs = [(one, one.streams.video[0]), (other, other.streams.audio[0])]
        outputs = [out.add_stream_from_template(stream) for _, stream in inputs]
        for (source, stream), stream_out in zip(inputs, outputs, strict=True):
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = stream_out
                    out.mux(packet)
