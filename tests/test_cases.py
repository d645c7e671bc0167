"""Small files made after what users of other systems reported: their pictures, clocks and sound.

Those about subtitles, names and folders are in `test_cases_text.py`.
"""

from __future__ import annotations

import pytest
from cases import Ingest, case

__all__ = ["case"]


def test_sound_that_begins_late_keeps_its_times(case: Ingest) -> None:
    found = case("c14a_audio_starts_6s_late.mp4")
    assert found.shown["state"] == "indexed"
    assert found.shown["transcript"][0]["start_s"] == pytest.approx(6.3, abs=0.3)


def test_talk_in_the_centre_channel_is_recognised(case: Ingest) -> None:
    assert "wizard" in case("c22_surround_centre.mkv").transcript


@pytest.mark.parametrize("name", ["c19b_dissolve.mp4", "c19c_fade_black.mp4"])
def test_a_slow_transition_is_a_boundary(case: Ingest, name: str) -> None:
    starts_s = [clip["start_s"] for clip in case(name, "--no-asr").shown["clips"]]
    assert any(abs(start_s - 6.0) <= 1.5 for start_s in starts_s)
