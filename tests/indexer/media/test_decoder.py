"""Decoding: sampled frames, refused files, and decoders that misbehave."""

from __future__ import annotations

import os
import socket
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from media import ASS_HEADER, Shot, make_video, media_folder, overwrite, shot_frames, truncate
from reading import SIZE_PX, TAP, read, refusal, sound_of

from vfindex.indexer.media import container
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder
from vfindex.indexer.media.protocol import MAX_ITEMS
from vfindex.indexer.options import Sampling
from vfindex.storage.errors import UsageError, VideoError


def sound(decoder: Decoder, path: Path, start_s: float | None = None, end_s: float | None = None) -> list[AudioBlock]:
    sampling = Sampling.parse("keyframes")
    items = decoder.read(
        os.fsencode(path),
        taps=[TAP, AudioTap()],
        sampling=sampling,
        audio=sound_of(decoder, path),
        start_s=start_s,
        end_s=end_s,
    )
    return [item for item in items if isinstance(item, AudioBlock)]


# Sampling


@pytest.mark.parametrize("text", ["auto", "keyframes", "2.5", "1", "0.1"])
def test_sampling_round_trips(text: str) -> None:
    assert str(Sampling.parse(text)) == text


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1000", "", "often", "1e-9"])
def test_sampling_refuses_nonsense(text: str) -> None:
    with pytest.raises(UsageError, match="--sampling"):
        Sampling.parse(text)


def test_fixed_rate_takes_the_first_frame_of_each_cell(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "odd.mp4", times_s=[0.0, 0.04, 0.4, 0.6, 0.9, 2.3, 2.4, 3.1], shots=[Shot("red", 4.0)])
    frames, end = read(decoder, path, "1")
    assert [frame.time_s for frame in frames] == pytest.approx([0.0, 2.3, 3.1])
    assert (end.frames, end.first_s, end.last_s) == (8, 0.0, pytest.approx(3.1))


def test_auto_reads_keyframes_where_they_are_close_and_decodes_where_they_are_far(
    decoder: Decoder, tmp_path: Path
) -> None:
    close = make_video(tmp_path / "close.mp4", shots=[Shot("red", 20.0)], fps=10.0, keyframe_s=3.0)
    times_s = [frame.time_s for frame in read(decoder, close, "auto")[0]]
    assert [time_s for time_s in times_s if time_s < 8.0] == pytest.approx(np.arange(0, 8, 0.5))
    assert [time_s for time_s in times_s if time_s > 9.0] == pytest.approx([12.0, 15.0, 18.0])
    far = make_video(tmp_path / "far.mp4", shots=[Shot("red", 20.0)], fps=10.0, keyframe_s=6.0)
    assert [frame.time_s for frame in read(decoder, far, "auto")[0]] == pytest.approx(
        [*np.arange(0, 8, 0.5), *np.arange(8, 18), 18.0]
    )


def test_auto_thins_keyframes_that_crowd(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "intra.mp4", shots=[Shot("red", 12.0)], fps=20.0, keyframe_s=0.05)
    assert [frame.time_s for frame in read(decoder, path, "auto")[0]] == pytest.approx(np.arange(0, 12, 0.5))
    assert len(read(decoder, path, "keyframes")[0]) == 240


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gop.mp4", {"codec": "libx264", "b_frames": 3, "keyframe_s": 6.0}),
        (
            "open.mkv",
            {"codec": "libx264", "b_frames": 3, "keyframe_s": 3.0, "codec_options": {"x264-params": "open-gop=1"}},
        ),
        ("vp9.webm", {"codec": "libvpx-vp9", "keyframe_s": 5.0, "codec_options": {"cpu-used": "8"}}),
        ("stream.ts", {"codec": "mpeg2video", "b_frames": 2, "start_s": 7.0, "fps": 25.0}),
        ("old.avi", {}),
    ],
)
@pytest.mark.parametrize("sampling", ["auto", "keyframes", "2"])
def test_a_stretch_gives_the_frames_of_the_whole(
    decoder: Decoder, tmp_path: Path, name: str, options: dict[str, object], sampling: str
) -> None:
    shots = [Shot("red", 9.0, "blue"), Shot("green", 6.0, "white"), Shot("yellow", 5.0)]
    path = make_video(tmp_path / name, **{"shots": shots, "fps": 12.5, "width": 64, "height": 48, **options})
    whole, end = read(decoder, path, sampling)
    assert len(whole) > 2 and end.error == ""
    start_s = whole[0].time_s
    cuts_s: list[float | None] = [None, start_s + 2.34, whole[len(whole) // 2].time_s, start_s + 15.0, None]
    joined = []
    for first_s, last_s in pairwise(cuts_s):
        joined += read(decoder, path, sampling, start_s=first_s, end_s=last_s)[0]
    assert [frame.time_s for frame in joined] == [frame.time_s for frame in whole]
    assert all((one.pixels == other.pixels).all() for one, other in zip(joined, whole, strict=True))


# 4:4:4 that decodes right only after the file's first keyframe; times that jitter; reordered pictures
@pytest.mark.parametrize(("name", "sampling"), [("v005.mp4", "keyframes"), ("v027.avi", "auto"), ("v037.mkv", "auto")])
def test_a_stretch_of_a_real_video_gives_the_frames_of_the_whole(decoder: Decoder, name: str, sampling: str) -> None:
    path = media_folder("public") / "videos" / name
    whole, end = read(decoder, path, sampling)
    assert end.last_s is not None
    middle_s = end.last_s * 0.52
    joined = read(decoder, path, sampling, end_s=middle_s)[0] + read(decoder, path, sampling, start_s=middle_s)[0]
    assert [frame.time_s for frame in joined] == [frame.time_s for frame in whole]
    assert all((one.pixels == other.pixels).all() for one, other in zip(joined, whole, strict=True))


# Pictures


def test_frames_have_the_colours_of_their_shots(decoder: Decoder, clip: Path) -> None:
    frames, _ = read(decoder, clip, "2")
    for frame in frames:
        colour = (220, 30, 30) if frame.time_s < 2.0 else (30, 60, 220)
        assert np.abs(np.median(frame.pixels[10:], axis=(0, 1)) - colour).max() < 16
        assert frame.pixels.dtype == np.uint8 and frame.pixels.flags.c_contiguous


@pytest.mark.parametrize(("turn", "quarters"), [(90, 1), (-90, -1), (180, 2)])
def test_rotated_videos_come_upright(decoder: Decoder, tmp_path: Path, turn: int, quarters: int) -> None:
    plain = make_video(tmp_path / "plain.mp4", shots=[Shot("red", 0.4, "blue")])
    turned = make_video(tmp_path / "turned.mp4", shots=[Shot("red", 0.4, "blue")], rotation_deg=turn)
    found = decoder.probe(os.fsencode(turned))
    assert found.rotation_deg % 360 == turn % 360
    assert (found.width_px, found.height_px) == ((160, 96) if quarters == 2 else (96, 160))
    upright = read(decoder, turned, "auto")[0][0].pixels
    assert (upright == np.rot90(read(decoder, plain, "auto")[0][0].pixels, quarters)).all()


@pytest.mark.parametrize(("width", "height"), [(2, 2), (2560, 16), (16, 1080), (33, 47)])
def test_any_shape_is_fitted(decoder: Decoder, tmp_path: Path, width: int, height: int) -> None:
    options = {"codec": "libx264", "pix_fmt": "yuv444p"}
    path = make_video(tmp_path / "shape.mkv", shots=[Shot("green", 0.4)], width=width, height=height, **options)
    pixels = read(decoder, path, "auto")[0][0].pixels
    assert min(pixels.shape[:2]) == SIZE_PX and max(pixels.shape[:2]) <= 3 * SIZE_PX
    assert np.abs(np.median(pixels, axis=(0, 1)) - (30, 180, 60)).max() < 16


def test_too_many_pixels_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    options = {"codec": "png", "pix_fmt": "gray", "shots": [Shot("red", 0.01)]}
    error = refusal(decoder, make_video(tmp_path / "huge.mov", width=40_000, height=16, **options))
    assert error.problem.code == "too_large" and "67 million pixels" in error.problem.reason
    container.check_size(8192, 8192)
    with pytest.raises(container.Refusal, match="8193x8192"):
        container.check_size(8193, 8192)


# AudioReader


def test_audio_is_a_mono_mix_of_all_channels(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "right.mkv", tone_hz=(0.0, 440.0), shots=[Shot("red", 3.0)])
    samples = np.concatenate([block.samples for block in sound(decoder, path)])
    assert len(samples) == pytest.approx(3 * 16_000, abs=2_000)
    spectrum = np.abs(np.fft.rfft(samples[:32_000].astype(np.float64)))
    assert np.argmax(spectrum) * 16_000 / 32_000 == pytest.approx(440, abs=2)
    assert np.abs(samples).max() > 3_000


def test_sixteen_channels_are_mixed(decoder: Decoder, tmp_path: Path) -> None:
    """Recorders write them; planar frames of so many crash PyAV 18."""
    path = make_video(tmp_path / "many.mkv", tone_hz=(0.0,) * 15 + (440.0,), shots=[Shot("red", 6.0)])
    samples = np.concatenate([block.samples for block in sound(decoder, path)])
    assert len(samples) == pytest.approx(6 * 16_000, abs=20)
    spectrum = np.abs(np.fft.rfft(samples[:64_000].astype(np.float64)))
    assert np.argmax(spectrum) * 16_000 / 64_000 == pytest.approx(440, abs=2)


def test_audio_of_an_interval_begins_and_ends_with_it(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "tone.mp4", tone_hz=440.0, shots=[Shot("red", 12.0)])
    blocks = sound(decoder, path, 3.25, 7.5)
    assert blocks[0].time_s == pytest.approx(3.25, abs=0.001)
    assert blocks[-1].time_s + len(blocks[-1].samples) / 16_000 == pytest.approx(7.5, abs=0.001)
    assert sum(len(block.samples) for block in blocks) == pytest.approx(4.25 * 16_000, abs=20)


@pytest.mark.parametrize("stretch", [(None, None), (1.0, 3.0)])
def test_audio_is_the_same_without_frames(
    decoder: Decoder, tmp_path: Path, stretch: tuple[float | None, float | None]
) -> None:
    path = make_video(tmp_path / "tone.mp4", shots=[Shot("red", 4)], tone_hz=440)
    start_s, end_s = stretch
    *items, end = decoder.read(
        os.fsencode(path),
        taps=[AudioTap()],
        sampling=Sampling(),
        audio=sound_of(decoder, path),
        start_s=start_s,
        end_s=end_s,
    )
    expected = sound(decoder, path, start_s, end_s)
    assert [(block.time_s, block.samples.tolist()) for block in items] == [
        (block.time_s, block.samples.tolist()) for block in expected
    ]
    assert (end.frames, end.damaged, end.error) == (0, 0, "")


def test_audio_longer_than_the_video_is_read_and_does_not_extend_it(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "long.mp4", tone_hz=440.0, tone_s=5.0, shots=[Shot("red", 1.0)])
    assert decoder.probe(os.fsencode(path)).end_s == pytest.approx(1.0, abs=0.01)
    assert sum(len(block.samples) for block in sound(decoder, path)) == pytest.approx(5 * 16_000, abs=2_500)


def test_a_gap_in_the_audio_shows_in_the_times(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "gap.mkv", tone_hz=440.0, tone_gap_s=(1.0, 2.5), shots=[Shot("red", 4.0)])
    blocks = sound(decoder, path)
    heard_s = [(block.time_s, block.time_s + len(block.samples) / 16_000) for block in blocks]
    silent_s = [(end_s, next_s) for (_, end_s), (next_s, _) in pairwise(heard_s) if next_s - end_s > 0.1]
    assert silent_s == [(pytest.approx(1.0, abs=0.1), pytest.approx(2.5, abs=0.1))]


# What the container says


def test_probe_returns_the_header(decoder: Decoder, clip: Path) -> None:
    found = decoder.probe(os.fsencode(clip))
    assert (found.codec, found.width_px, found.height_px, found.has_audio) == ("mpeg4", 160, 96, True)
    assert (found.start_s, found.end_s, found.frames) == (0.0, pytest.approx(4.0), 100)
    assert found.tags["title"] == "A red day"
    assert (found.fps, found.start_timecode) == ("25/1", None)
    assert Fraction(found.time_base or 0) <= Fraction(1, 25)


@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv"])
@pytest.mark.parametrize("timecode", ["10:00:00:05", "about noon"])
def test_the_timecode_of_the_first_frame_is_probed(
    decoder: Decoder, tmp_path: Path, suffix: str, timecode: str
) -> None:
    path = make_video(tmp_path / f"tape{suffix}", tags={"timecode": timecode})
    assert decoder.probe(os.fsencode(path)).start_timecode == (timecode if timecode[0] == "1" else None)


def test_a_rate_that_no_number_is_near_stays_a_fraction(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "ntsc.mov", fps=30000 / 1001)
    assert decoder.probe(os.fsencode(path)).fps == "30000/1001"


@pytest.mark.parametrize(("name", "codec"), [("text.mp4", "mov_text"), ("text.mkv", "subrip")])
def test_subtitles_are_read_with_their_times(decoder: Decoder, tmp_path: Path, name: str, codec: str) -> None:
    text = [(0.5, 1.5, "[red]Grüße[/red]"), (2.0, 3.0, "two\nlines")]
    path = make_video(tmp_path / name, text=text, text_codec=codec)
    (track,) = decoder.probe(os.fsencode(path)).subtitles
    assert track.codec == codec
    events = decoder.subtitles(os.fsencode(path), track.index)
    assert [(round(start_s, 3), round(end_s, 3), words) for start_s, end_s, words in events] == text
    with pytest.raises(VideoError, match="no text subtitles"):
        decoder.subtitles(os.fsencode(path), 0)


def test_marks_of_subtitle_tracks_are_probed(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "marked.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        signs, full = container.add_stream("subrip"), container.add_stream("subrip")
        for stream in (signs, full):
            stream.codec_context.subtitle_header = ASS_HEADER
        signs.disposition = Disposition.forced | Disposition.default
        full.disposition = Disposition.hearing_impaired | Disposition.comment
        full.metadata["title"], full.metadata["language"] = "Full (SDH)", "eng"
        for image in shot_frames([Shot("red", 1.0)], 10, 64, 48):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image[1], format="rgb24")))
        container.mux(video.encode(None))
    first, second = decoder.probe(os.fsencode(path)).subtitles
    assert (first.forced, first.default, first.hearing_impaired, first.comment) == (True, True, False, False)
    assert (second.forced, second.default, second.hearing_impaired, second.comment) == (False, False, True, True)
    assert (first.title, second.title, second.language) == ("", "Full (SDH)", "eng")


def test_tags_and_chapters_that_are_not_text_are_kept_as_far_as_possible(
    decoder: Decoder, tmp_path: Path, clip: Path
) -> None:
    def spoil(data: bytearray) -> None:
        at = data.index(b"A red day")
        data[at : at + 2] = b"\xff\x1b"

    spoilt = overwrite(clip, tmp_path / "spoilt.mp4", spoil)
    assert decoder.probe(os.fsencode(spoilt)).tags["title"] == "\ufffd\x1bred day"


def test_chapters_beyond_the_limit_are_counted(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "many.mkv"
    with av.open(os.fspath(path), "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        times = [{"start": n, "end": n + 1, "time_base": Fraction(1, 1000)} for n in range(MAX_ITEMS + 3)]
        out.set_chapters([{"id": n + 1, **each, "metadata": {"title": f"part {n}"}} for n, each in enumerate(times)])
        for _ in range(20):
            out.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        out.mux(video.encode(None))
    probe = decoder.probe(os.fsencode(path))
    assert (len(probe.chapters), probe.chapters[-1].title, probe.chapters_left) == (MAX_ITEMS, "part 999", 3)


def test_every_allowed_format_exists() -> None:
    known = {part for name in av.formats_available for part in name.split(",")}
    assert not set(container.ALLOWED_FORMATS) - known
    assert not {"hls", "dash", "concat", "sdp", "rtsp", "image2", "tty", "lavfi"} & set(container.ALLOWED_FORMATS)


# Files that are no videos, or want something opened


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXTINF:5,\n{file}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{file}'\nfile '{url}'\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", None])
def test_playlists_are_refused_and_nothing_in_them_is_opened(
    decoder: Decoder, tmp_path: Path, clip: Path, kind: str, suffix: str | None
) -> None:
    canary = tmp_path / "canary.mp4"
    canary.write_bytes(clip.read_bytes())
    os.utime(canary, ns=(0, time.time_ns()))  # reading would renew the time of access, as it is older than the change
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = PLAYLISTS[kind].format(url=f"http://127.0.0.1:{port}/a.mp4", file=canary, port=port)
        path = tmp_path / f"list.{suffix or kind}"
        path.write_text(text)
        error = refusal(decoder, path)
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
    assert error.problem.code == "playlist" and not error.quarantine
    assert canary.stat().st_atime_ns == 0


def test_media_in_other_files_are_not_opened(decoder: Decoder, tmp_path: Path) -> None:
    plain = make_video(tmp_path / "plain.mov", shots=[Shot("red", 1.0)])
    canary = tmp_path / "canary.mov"
    canary.write_bytes(plain.read_bytes())
    path = overwrite(plain, tmp_path / "refers.mov", lambda data: refer_to(data, os.fsencode(canary)))
    os.utime(canary, ns=(0, time.time_ns()))
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), options=options) as container:  # the file does lead FFmpeg astray where it is let
        list(container.demux())
    if canary.stat().st_atime_ns == 0:
        pytest.skip("this file system keeps no times of access")
    os.utime(canary, ns=(0, time.time_ns()))
    try:
        decoder.probe(os.fsencode(path))
    except VideoError as error:
        assert not error.quarantine
    assert canary.stat().st_atime_ns == 0


def refer_to(data: bytearray, target: bytes) -> None:
    """Have the data reference box of a one-track MOV, index at its end, name another file as an alias."""
    alias = bytes(10) + bytes(1 + 27 + 12) + bytes(1 + 63 + 16) + (-1).to_bytes(2, "big", signed=True) * 2 + bytes(16)
    alias += (2).to_bytes(2, "big") + len(target).to_bytes(2, "big") + target + bytes(len(target) % 2) + b"\xff\xff"
    entry = (len(alias) + 12).to_bytes(4, "big") + b"alis" + bytes(4) + alias
    at = data.index(b"dref", data.index(b"vmhd")) + 12
    old = int.from_bytes(data[at : at + 4], "big")
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        size_at = data.rindex(box, 0, at) - 4
        size = int.from_bytes(data[size_at : size_at + 4], "big") + len(entry) - old
        data[size_at : size_at + 4] = size.to_bytes(4, "big")
    data[at : at + old] = entry


def test_special_files_are_refused_at_once(decoder: Decoder, tmp_path: Path, clip: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(clip)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket.mp4"))
        for name in ("pipe.mp4", "folder.mp4", "link.mp4", "socket.mp4"):
            assert refusal(decoder, tmp_path / name).problem.code == "not_regular"
    assert refusal(decoder, b"/dev/zero").problem.code == "not_regular"
    assert refusal(decoder, tmp_path / "missing.mp4").problem.code == "missing"


@pytest.mark.parametrize(
    "name", [b"-i.mp4", b"a\nb.mp4", b"[bold]x[red].mp4", b"\x1b[31mred.mp4", b"caf\xe9 \xff.mp4", b"concat:x|y.mp4"]
)
def test_any_name_is_read(decoder: Decoder, tmp_path: Path, clip: Path, name: bytes) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:
        file.write(clip.read_bytes())
    assert decoder.probe(path).codec == "mpeg4"
    with open(path, "wb") as file:
        file.write(b"nothing to see, only words\n" * 9)
    assert refusal(decoder, path).problem.path == path


def test_truncated_files_are_said_to_be(decoder: Decoder, tmp_path: Path, clip: Path) -> None:
    assert refusal(decoder, truncate(clip, tmp_path / "half.mp4", 0.5)).problem.code == "incomplete"
    long = make_video(tmp_path / "long.mkv", shots=[Shot("red", 12.0, "blue")])
    cut = truncate(long, tmp_path / "cut.mkv", 0.5)
    frames, end = read(decoder, cut, "1")
    assert 3 <= len(frames) <= 9 and "cut off" in end.error
    assert decoder.probe(os.fsencode(cut)).end_s < 9.0
