"""What `vfindex show` says of a video's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.writer import writing


@pytest.mark.parametrize(("heard_s", "said"), [(38.3, "indexed: 0:38, "), (47.6, "indexed: 0:38, sound to 0:48, ")])
def test_sound_after_the_last_frame_is_shown(run: Any, tmp_path: Path, heard_s: float, said: str) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "v.mp4", [clip(30.0, heard_s, visual=axis(0))], end_s=38.0)
        writer.publish()
    assert said in run("show", "v.mp4", "--library", tmp_path).out
