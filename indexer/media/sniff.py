"""Diagnosis of files that FFmpeg does not open, from their first bytes, with a next step for the user."""

from __future__ import annotations

import string
import struct
from typing import NamedTuple

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
HEAD_BYTES = 4096  # all signatures are in the first 300 bytes; text needs a sample


class Diagnosis(NamedTuple):
    """code: stable word. reason: what the file is. next: what the user can do."""

    code: str
    reason: str
    next: str


# The same for a named file, which --exclude of its folder does not reach, and for one in a folder.
NOT_INDEXED = "vfindex indexes videos; to leave it out: vfindex remove FILE"
_SOUND = Diagnosis("no_video", "an audio file, without a video stream", NOT_INDEXED)
_PLAYLIST_NEXT = "a playlist only names other files, which vfindex does not open; download the video itself"

_SIGNATURES: tuple[tuple[bytes, Diagnosis], ...] = (
    (b"\x89PNG\r\n\x1a\n", Diagnosis("picture", "a still picture (PNG)", NOT_INDEXED)),
    (b"\xff\xd8\xff", Diagnosis("picture", "a still picture (JPEG)", NOT_INDEXED)),
    (b"BM", Diagnosis("picture", "a still picture (BMP)", NOT_INDEXED)),
    (b"II*\x00", Diagnosis("picture", "a still picture (TIFF)", NOT_INDEXED)),
    (b"MM\x00*", Diagnosis("picture", "a still picture (TIFF)", NOT_INDEXED)),
    (b"\xff\x0a", Diagnosis("picture", "a still picture (JPEG XL)", NOT_INDEXED)),
    (b"ID3", _SOUND),
    (b"fLaC", _SOUND),
    (b"MThd", _SOUND),
    (b"FORM", _SOUND),
    (b"caff", _SOUND),
    (b"#!AMR", _SOUND),
    (
        b"version https://git-lfs",
        Diagnosis("lfs_pointer", "a Git LFS pointer, not the video itself", "run `git lfs pull`"),
    ),
    (b"#EXTM3U", Diagnosis("playlist", "an HLS playlist (M3U8)", _PLAYLIST_NEXT)),
    (b"ffconcat", Diagnosis("playlist", "an ffconcat script", _PLAYLIST_NEXT)),
    (b"[playlist]", Diagnosis("playlist", "a playlist (PLS)", _PLAYLIST_NEXT)),
    (b"[Reference]", Diagnosis("playlist", "an ASX reference", _PLAYLIST_NEXT)),
    (b"%PDF", Diagnosis("not_a_video", "a PDF document", NOT_INDEXED)),
    (b"PK\x03\x04", Diagnosis("not_a_video", "a ZIP archive", "unpack it, then index the videos in it")),
    (b"Rar!", Diagnosis("not_a_video", "a RAR archive", "unpack it, then index the videos in it")),
    (b"7z\xbc\xaf", Diagnosis("not_a_video", "a 7-Zip archive", "unpack it, then index the videos in it")),
)
_STILL_BRANDS = {b"heic", b"heix", b"heim", b"mif1", b"avif", b"jxl "}  # ISO 23008-12: images in the MP4 box format
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"pnot"}
_RAW_NEXT = "put it into a container that stores times, for example `ffmpeg -i FILE -c copy FILE.mkv`"


def still_picture(head: bytes) -> bool:
    """Return whether this is an image in the MP4 box format (HEIC, AVIF), which FFmpeg opens as a video."""
    return head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS


def diagnose(head: bytes) -> Diagnosis:
    """Return the kind of file, from its first HEAD_BYTES."""
    if not head:
        return Diagnosis("empty", "the file is empty (0 bytes)", "copy or download it again")
    if not head.strip(b"\0"):
        return Diagnosis("incomplete", "the file begins with nothing but zero bytes", "copy or download it again")
    for signature, found in _SIGNATURES:
        if head.startswith(signature):
            return found
    return (
        _riff_or_mp4(head)
        or _text(head)
        or _raw(head)
        or Diagnosis(
            "not_a_video", "not a video that FFmpeg recognises", "check that it plays; download it again or convert it"
        )
    )


def _riff_or_mp4(head: bytes) -> Diagnosis | None:
    if head[:4] in (b"RIFF", b"RF64"):
        if head[8:12] == b"WAVE":
            return _SOUND
        if head[8:12] == b"WEBP":
            return Diagnosis("picture", "a still picture (WebP)", NOT_INDEXED)
    if still_picture(head):
        return Diagnosis("picture", "a still picture (HEIC or AVIF)", NOT_INDEXED)
    if head[4:8] in _BOXES:
        return Diagnosis(
            "incomplete",
            "the index (moov) is missing or damaged: the file is incomplete",
            "copy or download it again, or repair it (for example with `untrunc`)",
        )
    return None


def _text(head: bytes) -> Diagnosis | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lowered = start.lower()
    if b"#extm3u" in lowered[:512]:
        return Diagnosis("playlist", "an HLS playlist (M3U8)", _PLAYLIST_NEXT)
    if b"ffconcat" in lowered[:64]:
        return Diagnosis("playlist", "an ffconcat script", _PLAYLIST_NEXT)
    if b"<mpd" in lowered:
        return Diagnosis("playlist", "a DASH manifest (MPD)", _PLAYLIST_NEXT)
    if b"<smil" in lowered or b"<asx" in lowered or b"<smoothstreamingmedia" in lowered:
        return Diagnosis("playlist", "a streaming manifest", _PLAYLIST_NEXT)
    if lowered.startswith(b"v=0") and b"m=" in lowered:
        return Diagnosis("playlist", "an SDP session description", _PLAYLIST_NEXT)
    if lowered.startswith((b"<!doctype html", b"<html")):
        return Diagnosis("text", "a web page (HTML)", "download the video itself, not the page that shows it")
    plain = sum(byte in _PRINTABLE or byte >= 0x80 for byte in start)
    if start and plain == len(start) and _decodes(head):
        step = "if it should be a video, download it again; to leave it out: vfindex remove FILE"
        return Diagnosis("text", "a text file", step)
    return None


_PRINTABLE = frozenset(string.printable.encode())


def _decodes(head: bytes) -> bool:
    try:
        head[:-4].decode()  # the sample may end inside a character
    except UnicodeDecodeError:
        return False
    return True


def _raw(head: bytes) -> Diagnosis | None:
    if head.startswith((b"\0\0\0\1", b"\0\0\1")):
        return Diagnosis("not_a_video", "a raw video stream without a container and without times", _RAW_NEXT)
    return None


def announced_end(head: bytes) -> int | None:
    """Return the offset at which a Matroska, AVI, ASF or FLV file ends, by its first bytes; None if they do not say.

    For an AVI file of several parts (OpenDML), the end of the first.
    """
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        length = int.from_bytes(head[4:8], "little")
        return length + 8 if 0 < length < 0xFFFFFFFF else None  # else never written, or unknown
    if head.startswith(_ASF_HEADER):
        at = head.find(_ASF_PROPERTIES) + 40  # ASF specification, 3.2: the size stands behind two GUIDs and a length
        is_live = at < 40 or head[at + 48 : at + 49] in (b"", b"\1", b"\3")
        return None if is_live else int.from_bytes(head[at : at + 8], "little") or None
    if head.startswith(b"FLV"):
        _, found, rest = head.partition(b"\0\x08filesize\0")
        size = struct.unpack(">d", rest[:8])[0] if found and len(rest) >= 8 else 0.0
        return int(size) if 0 < size < 2**53 else None
    return matroska_end(head)


def matroska_end(head: bytes) -> int | None:
    """Return the offset at which the segment of a Matroska file ends, by its first bytes; None if they do not say.

    RFC 8794, 4: the lengths of elements, whose leading zero bits tell their own length; all ones are unknown. RFC 9559.
    """
    if not head.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    header = _element_length(head, 4)
    if header is None:
        return None
    at = sum(header)
    segment = _element_length(head, at + 4) if head[at : at + 4] == b"\x18\x53\x80\x67" else None
    return None if segment is None else sum(segment)


def _element_length(data: bytes, at: int) -> tuple[int, int] | None:
    """Return (where the element's content begins, its length) of the length stored at `at`."""
    size = 9 - data[at].bit_length() if at < len(data) else 9
    if size > 8 or at + size > len(data):
        return None
    mask = (1 << 7 * size) - 1
    length = int.from_bytes(data[at : at + size], "big") & mask
    return None if length == mask else (at + size, length)
