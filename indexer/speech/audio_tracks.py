"""Choice of the audio track for speech recognition: the original audio, in a language that the model supports."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vfindex.indexer.languages import language_tag
from vfindex.indexer.media.answers import AudioTrack
from vfindex.storage.errors import counted

# Titles of commentaries and audio descriptions.
_COMMENTARY = re.compile(r"comment|kommentar|descri[pb]|descripci|audiodesk|visually|h[öo]rfilm|\bAD\b", re.IGNORECASE)


def choose_track(tracks: Sequence[AudioTrack], languages: frozenset[str] | None) -> AudioTrack | None:
    """Return the track to recognise, None if none can be decoded.

    languages: those that the model supports; None: all. Order: original audio before commentary; supported language
    before unmarked before others; the default track; the first.
    """

    def rank(track: AudioTrack) -> tuple[bool, int, bool]:
        is_commentary = track.is_commentary or bool(_COMMENTARY.search(track.title))
        return is_commentary, _language_rank(track.language, languages), not track.is_default

    return min((track for track in tracks if track.has_decoder), key=rank, default=None)


def no_asr_reason(track: AudioTrack | None, tracks: Sequence[AudioTrack], languages: frozenset[str] | None) -> str:
    """Return why the speech of a video is not recognised, "" if it is. track: the one chosen of `tracks`."""
    if not tracks:
        return "no sound"
    if track is None:
        names = ", ".join(sorted({track.codec or "unknown" for track in tracks}))
        return f"this FFmpeg has no decoder for its audio ({names})"
    if _language_rank(track.language, languages) > 1:
        known = ", ".join(sorted(languages or ()))
        return f"its audio is marked as {language_tag(track.language)}, the speech model supports {known} only"
    return ""


def lost_audio(packets: int, damaged: int) -> str:
    """Return a sentence about the audio packets that could not be decoded, "" if all could."""
    if not damaged:
        return ""
    if damaged >= packets:
        return f"its audio could not be decoded, {counted(damaged, 'damaged packet')}"
    return f"{counted(damaged, 'damaged packet')} of {packets} of its audio were skipped"


def _language_rank(language: str, languages: frozenset[str] | None) -> int:
    tag = language_tag(language).split("-")[0]
    if not tag:
        return 1
    return 0 if languages is None or tag in languages else 2
