"""Small files that reproduce bug reports of other systems: frames, clocks and audio.

Those about subtitles, names and folders are in `test_cases_text.py`.
"""

from __future__ import annotations

import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from cases import Case, Ingest, case, ingest_folder
from media import Shot, media_folder, shot_frames

__all__ = ["case"]

FRAMES_ONLY = ("--no-asr", "--no-ocr")


def is_whole(found: Case) -> bool:
    return (found.shown["state"], found.shown["problem"]) == ("indexed", None)


def clip_starts(found: Case) -> list[float]:
    return [clip["start_s"] for clip in found.shown["clips"]]


def test_two_joined_recordings_share_one_clock(case: Ingest) -> None:
    found = case("c05a_two_recordings_joined.ts")
    assert is_whole(found)
    clips = found.shown["clips"]
    assert (clips[0]["start_s"], clips[-1]["end_s"]) == (0.0, pytest.approx(24.0, abs=0.1))
    assert all(a["end_s"] == b["start_s"] < b["end_s"] for a, b in pairwise(clips))
    assert (found.shown["frames"], found.shown["duration_s"]) == (288, pytest.approx(24.0, abs=0.1))
    assert found.hits("--like", f"{found.path}@18")


def test_a_clock_that_wraps_starts_at_zero(case: Ingest) -> None:
    found = case("c05b_pts_wraps.ts")
    assert is_whole(found)
    assert (found.shown["frames"], found.shown["start_s"]) == (144, 0.0)
    assert found.shown["end_s"] == pytest.approx(12.0, abs=0.01)
    assert any(abs(start_s - 6.0) <= 0.5 for start_s in clip_starts(found))
    assert found.hits("--like", f"{found.path}@0:02")


def test_stereo_with_an_inverted_side_is_recognised(case: Ingest) -> None:
    found = case("c06_antiphase.mp4")
    assert "the wizard" in found.transcript and "behind the curtain" in found.transcript


def test_reordered_frames_in_avi_come_in_order(case: Ingest) -> None:
    found = case("c08d_h264_bframes_1fps.avi", *FRAMES_ONLY)
    assert is_whole(found)
    assert (found.shown["frames"], found.shown["duration_s"]) == (60, 60.0)


def test_the_track_that_moves_is_indexed(case: Ingest) -> None:
    found = case("c12b_cover_track_first_both_default.mkv")
    assert is_whole(found)
    assert (found.shown["frames"], len(found.shown["clips"])) == (144, 2)
    assert (found.shown["duration_s"], found.shown["codec"]) == (pytest.approx(12.0, abs=0.1), "h264")


def test_audio_in_a_supported_language_is_recognised(case: Ingest) -> None:
    both = case("c13_dual_audio.mkv")
    assert is_whole(both)
    assert {segment["language"] for segment in both.shown["transcript"]} == {"de"}, "the default track"
    english = case("c13_dual_audio.mkv", "--speech", "whisper-tiny.en")
    assert {segment["language"] for segment in english.shown["transcript"]} == {"en"}


def test_audio_in_another_language_is_skipped(tmp_path: Path, models_cache: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    german = source / "german.mkv"
    with av.open(str(media_folder("cases") / "c13_dual_audio.mkv")) as both, av.open(str(german), "w") as one:
        kept = [both.streams.video[0], both.streams.audio[0]]
        copies = {stream.index: one.add_stream_from_template(stream) for stream in kept}
        copies[1].metadata["language"] = "ger"
        for packet in both.demux(kept):
            if packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                one.mux(packet)
    found = ingest_folder(models_cache, german, source, tmp_path / "library", "--speech", "whisper-tiny.en")
    assert is_whole(found)
    assert found.shown["transcript"] == []
    assert "its audio is marked as de, the speech model supports en only" in found.shown["coverage"][0]["speech"]


def test_undecodable_audio_makes_a_video_partial(tmp_path: Path, models_cache: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    path = source / "mute.mkv"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=12), container.add_stream("flac", rate=16_000)
        audio.codec_context.layout = "mono"
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for time_s, image in shot_frames([Shot("red", 4.0)], 12, 64, 48):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 12), Fraction(1, 12)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for n in range(40):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
            sound.sample_rate, sound.pts = 16_000, n * 1600
            for packet in audio.encode(sound):
                broken = av.Packet(b"\xff" * packet.size)
                broken.pts, broken.dts, broken.time_base, broken.stream = (
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                    audio,
                )
                container.mux(broken)
    found = ingest_folder(models_cache, path, source, tmp_path / "library")
    (partial,) = found.report["partial"]
    assert partial["reason"].startswith("its audio could not be decoded, ")
    assert (found.shown["state"], found.shown["frames"]) == ("partial", 48)
    assert "its audio could not be decoded" in found.shown["coverage"][0]["speech"]


def test_audio_that_begins_late_keeps_its_times(case: Ingest) -> None:
    found = case("c14a_audio_starts_6s_late.mp4")
    assert is_whole(found)
    assert found.shown["transcript"][0]["start_s"] == pytest.approx(6.3, abs=0.3)


def test_a_sidecar_belongs_to_a_container_that_starts_late(case: Ingest) -> None:
    found = case("c15_dvb.ts")
    assert is_whole(found)
    assert (found.shown["start_s"], found.shown["end_s"]) == (0.0, pytest.approx(12.0, abs=0.1))
    assert found.shown["transcript"]
    assert all(0 <= segment["start_s"] < segment["end_s"] <= 12.1 for segment in found.shown["transcript"])
    assert any("speech" in clip["modalities"] for clip in found.shown["clips"])


def test_camera_flashes_are_not_cuts(case: Ingest) -> None:
    assert len(case("c19a_flashes.mp4", *FRAMES_ONLY).shown["clips"]) == 1


def test_speech_in_the_centre_channel_is_recognised(case: Ingest) -> None:
    assert "wizard" in case("c22_surround_centre.mkv").transcript


@pytest.mark.parametrize("name", ["c19b_dissolve.mp4", "c19c_fade_black.mp4"])
def test_a_slow_transition_is_a_boundary(case: Ingest, name: str) -> None:
    assert any(abs(start_s - 6.0) <= 1.5 for start_s in clip_starts(case(name, *FRAMES_ONLY)))


def test_frames_that_change_size_keep_their_aspect(case: Ingest) -> None:
    from PIL import Image

    found = case("c28_rotating_screen.ts")
    assert is_whole(found)
    shapes = [Image.open(clip["thumbnail"]).size for clip in found.shown["clips"]]
    assert shapes[0][0] > shapes[0][1] and shapes[-1][0] < shapes[-1][1]


@pytest.mark.parametrize(
    ("name", "frames", "end_s", "problem"),
    [
        ("F1_empty_subtitle_track.mkv", 3, 0.3, None),
        ("F2_avi_scalemax.avi", 60, 60.0, None),
        ("F8_255_channels.mkv", 4, 4.0, "its audio could not be decoded"),
    ],
)
def test_small_files_found_by_mutation_are_indexed(
    tmp_path: Path, models_cache: Path, name: str, frames: int, end_s: float, problem: str | None
) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    shutil.copyfile(media_folder("fuzz") / name, source / name)
    found = ingest_folder(models_cache, source / name, source, tmp_path / "library")
    assert found.report["failed"] == []
    assert found.shown["frames"] == frames
    assert found.shown["end_s"] == pytest.approx(end_s, abs=0.5)
    assert found.report["video_seconds"] == pytest.approx(end_s, abs=0.5)
    reason = (found.shown["problem"] or {}).get("reason")
    assert reason is None if problem is None else problem in reason


def test_an_unsupported_duration_is_reported(tmp_path: Path, models_cache: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    name = "F2_avi_scalemax.avi"
    shutil.copyfile(media_folder("fuzz") / name, source / name)
    found = ingest_folder(models_cache, source / name, source, tmp_path / "library", *FRAMES_ONLY)
    assert "its header claims 130996502467 s, its frames end at 59.0 s" in found.shown["coverage"][0]["visual"]


def test_a_last_frame_that_stays_is_not_damage(tmp_path: Path, models_cache: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    shutil.copyfile(media_folder("public") / "videos" / "v104.mp4", source / "v104.mp4")
    found = ingest_folder(models_cache, source / "v104.mp4", source, tmp_path / "library", *FRAMES_ONLY)
    assert is_whole(found)
    assert found.shown["frames"] == 45
