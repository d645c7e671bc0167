"""A decoder and a video, shared by the tests of decoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from media import make_video

from vfindex.indexer.media.decoder import Decoder


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", tone_hz=440, tags={"title": "A red day"})
