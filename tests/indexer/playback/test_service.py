"""Videos of a library through a service: how they play, spans of them, and cuts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import pytest
from library_maker import add_file, install
from media import Shot, make_video

from vfindex.indexer.playback.player import MediaPlayer
from vfindex.search.service import SearchService
from vfindex.storage.errors import LibraryError, QueryError, UsageError, VideoError
from vfindex.storage.writer import writing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library of a video that browsers play, one that they do not, and files that are not there or broken."""
    films = tmp_path_factory.mktemp("films")
    shots = [Shot("red", 5.0), Shot("blue", 5.0)]
    make_video(films / "plays.mp4", shots=shots, codec="libx264", tone_hz=440)
    make_video(films / "old.avi", shots=shots)
    (films / "broken.mp4").write_bytes(bytes(range(256)) * 100)
    root = tmp_path_factory.mktemp("library")
    with writing(root) as writer:
        install(writer)
        for path in (*sorted(films.iterdir()), films / "gone.mp4"):
            add_file(writer, path)
        writer.publish()
    return root


def test_a_video_says_how_it_plays(folder: Path) -> None:
    with MediaPlayer() as player, SearchService(folder, player=player) as service:
        plays, old, broken = (service.playback(name) for name in ("plays.mp4", "old.avi", "broken.mp4"))
    assert (plays.rung, plays.reason) == ("file", "")
    assert plays.content_type.startswith('video/mp4; codecs="avc1.') and plays.content_type.endswith(', mp4a.40.2"')
    assert (old.rung, old.reason) == ("transcode", "browsers do not play mpeg4 (Simple Profile, yuv420p)")
    assert (broken.rung, broken.content_type, broken.reason) == ("strip", "", "not a video that FFmpeg recognises")
    document = plays.to_dict()
    assert (document["fingerprint"], document["start_s"], document["end_s"]) == ("plays.mp4", 0.0, 10.0)


@pytest.mark.parametrize(("name", "rung"), [("plays.mp4", "remux"), ("old.avi", "transcode")])
def test_a_span_streams(folder: Path, name: str, rung: str) -> None:
    with MediaPlayer() as player, SearchService(folder, player=player) as service:
        with service.stream(name, 6.0) as stream:
            data = b"".join(stream)
        assert stream.rung == rung and 5.0 <= stream.start_s <= 6.0
        with service.stream(name, -5.0, 99.0) as whole:
            assert whole.start_s == 0.0 and len(b"".join(whole)) > len(data)
    with av.open(io.BytesIO(data)) as container:
        times_s = [float(frame.time or 0.0) for frame in container.decode(video=0)]
    assert stream.start_s + times_s[-1] == pytest.approx(9.96, abs=0.01)


def test_spans_of_videos_become_one_file(folder: Path) -> None:
    file = io.BytesIO()

    def write(at: int, data: bytes) -> None:
        file.seek(at)
        file.write(data)

    with MediaPlayer() as player, SearchService(folder, player=player) as service:
        end = service.cut([("plays.mp4", 4.0, 6.0), ("old.avi", -1.0, 1.0)], write, exact=True)
    assert end.spans == ((4.0, 6.0), (0.0, 1.0)) and end.duration_s == pytest.approx(3.0)
    file.seek(0)
    with av.open(file) as container:
        assert sum(1 for _ in container.decode(video=0)) == 75


@pytest.mark.parametrize(
    ("name", "call", "kind", "sentence"),
    [
        ("gone.mp4", lambda s, n: s.playback(n), LibraryError, "gone.mp4 is not there, so it cannot be shown"),
        ("nothing.mp4", lambda s, n: s.stream(n, 0.0), LibraryError, "nothing.mp4 is not in this library"),
        ("broken.mp4", lambda s, n: s.stream(n, 0.0), VideoError, "not a video that FFmpeg recognises"),
        ("plays.mp4", lambda s, n: s.stream(n, "1"), QueryError, "start_s must be a number of seconds, not '1'"),
        ("plays.mp4", lambda s, n: s.stream(n, float("nan")), QueryError, "start_s must be a number of seconds, not"),
        ("plays.mp4", lambda s, n: s.stream(n, 3.0, 2.0), QueryError, "end_s must be after start_s, not 2.0"),
        ("plays.mp4", lambda s, n: s.stream(n, 3.0, rung="file"), QueryError, "rung must be remux or transcode, not"),
        ("plays.mp4", lambda s, n: s.cut([(n, 3.0, 3.0)], print), QueryError, "must be two rising times, not 3.0 and"),
        ("plays.mp4", lambda s, n: s.cut([(n, 30.0, 31.0)], print), QueryError, "30 to 31 s lies outside the video"),
        ("plays.mp4", lambda s, n: s.cut([], print), QueryError, "name a span to cut at least"),
    ],
)
def test_what_does_not_play_is_a_sentence(
    folder: Path, name: str, call: Any, kind: type[Exception], sentence: str
) -> None:
    with MediaPlayer() as player, SearchService(folder, player=player) as service, pytest.raises(kind) as refused:
        call(service, name)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_service_without_a_player_says_how_to_get_one(folder: Path) -> None:
    with SearchService(folder) as service, pytest.raises(UsageError, match=r"player=MediaPlayer\(\)"):
        service.playback("plays.mp4")
