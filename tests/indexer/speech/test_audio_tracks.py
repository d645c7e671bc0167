"""The choice of the audio track, the mix of channels, and reports of undecodable audio."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from media import Shot, make_video, overwrite
from reading import TAP, sound_of

from vfindex.indexer.media.answers import AudioTrack
from vfindex.indexer.media.audio import mono_weights, to_mono
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder, Frame, ReadEnd
from vfindex.indexer.options import Sampling
from vfindex.indexer.speech.audio_tracks import choose_track, lost_audio, no_asr_reason

EN = frozenset({"en"})


@pytest.mark.parametrize(
    ("tracks", "languages", "index"),
    [
        ([AudioTrack(1, "ger", is_default=True), AudioTrack(2, "eng")], EN, 2),
        ([AudioTrack(1, "ger", is_default=True), AudioTrack(2, "eng")], None, 1),
        ([AudioTrack(1, "eng", title="Director's Commentary", is_default=True), AudioTrack(2, "eng")], EN, 2),
        ([AudioTrack(1, "eng", is_commentary=True), AudioTrack(2, "ger")], EN, 2),
        ([AudioTrack(1, "eng", title="English Audio Description"), AudioTrack(2, "")], EN, 2),
        ([AudioTrack(1, ""), AudioTrack(2, "", is_default=True)], EN, 2),
        ([AudioTrack(1, "eng", has_decoder=False), AudioTrack(2, "ger")], EN, 2),
        ([AudioTrack(1, "en-GB"), AudioTrack(2, "eng", is_default=True)], EN, 2),
    ],
)
def test_the_original_audio_in_a_supported_language_is_chosen(
    tracks: list[AudioTrack], languages: frozenset[str] | None, index: int
) -> None:
    chosen = choose_track(tracks, languages)
    assert chosen is not None and chosen.index == index


def test_why_speech_is_not_recognised() -> None:
    german = AudioTrack(1, "ger")
    assert no_asr_reason(None, [], EN) == "no sound"
    assert no_asr_reason(german, [german], EN) == "its audio is marked as de, the speech model supports en only"
    assert no_asr_reason(german, [german], None) == no_asr_reason(AudioTrack(1), [AudioTrack(1)], EN) == ""
    mute = AudioTrack(1, codec="adpcm_zork", has_decoder=False)
    assert choose_track([mute], EN) is None
    assert "no decoder" in no_asr_reason(None, [mute], EN)


def test_channels_are_mixed_unless_they_cancel_each_other() -> None:
    tone = (8000 * np.sin(np.arange(8000) / 5)).astype(np.int16)
    silence = np.zeros_like(tone)
    stereo = mono_weights(["FL", "FR"])
    assert np.array_equal(to_mono(np.stack([tone, -tone]), stereo), tone)
    assert np.array_equal(to_mono(np.stack([tone, tone]), stereo), tone)
    assert np.abs(to_mono(np.stack([silence, tone]), stereo)).max() == pytest.approx(4000, abs=1)
    surround = mono_weights(["FL", "FR", "FC", "LFE", "BL", "BR"])
    assert surround.sum() == pytest.approx(1.0) and surround[3] == 0
    behind = to_mono(np.stack([silence] * 5 + [tone]), surround)
    assert np.array_equal(behind, tone), "the only channel with sound"
    assert not to_mono(np.stack([silence, silence]), stereo).any()


@pytest.mark.parametrize(
    ("packets", "damaged", "words"),
    [
        (166, 0, ""),
        (166, 166, "its audio could not be decoded, 166 damaged packets"),
        (166, 1, "1 damaged packet of 166 of its audio were skipped"),
    ],
)
def test_lost_audio_is_reported(packets: int, damaged: int, words: str) -> None:
    assert lost_audio(packets, damaged) == words


def test_damaged_audio_costs_no_frame(decoder: Decoder, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", shots=[Shot("red", 4.0)], tone_hz=440)

    def change(data: bytearray) -> None:
        # Every SimpleBlock of track 2 begins with its number, two bytes of time and its flags.
        at = data.find(b"\xa3")
        while at >= 0:
            size = 1 if data[at + 1] & 0x80 else 2
            head = at + 1 + size
            if data[head] == 0x82 and len(data) > head + 12:
                data[head + 4 : head + 12] = b"\xff" * 8
            at = data.find(b"\xa3", at + 1)

    overwrite(path, path, change)
    index = sound_of(decoder, path)
    items = list(decoder.read(os.fsencode(path), taps=[TAP, AudioTap()], sampling=Sampling.parse("25"), audio=index))
    end = items[-1]
    assert isinstance(end, ReadEnd) and end.error == "" and end.damaged == 0
    assert len([item for item in items if isinstance(item, Frame)]) == 100
    assert 0 < end.damaged_audio <= end.audio_packets
    assert all(isinstance(item, AudioBlock | Frame | ReadEnd) for item in items)
