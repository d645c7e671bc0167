"""Title, search text and documents of a video from its name, folders, tags and chapters."""

from __future__ import annotations

import html
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vfindex.indexer.scan.sidecar_names import RELEASE_MARKS
from vfindex.storage.records import Chapter, Document

# Tags written by people, most informative first. Not encoder, handler_name, creation_time: programs write those.
TEXT_TAGS = (
    "title",
    "show",
    "subtitle",
    "description",
    "synopsis",
    "summary",
    "comment",
    "keywords",
    "subject",
    "genre",
    "artist",
    "album_artist",
    "performer",
    "author",
    "album",
    "location",
)
MAX_TITLE_CHARS = 255  # a file name's length
MAX_TEXT_CHARS = 1_000  # the text encoder reads 256 tokens, some 1,000 characters
MAX_DOCUMENT_CHARS = 10_000  # longer than any real description; a tag may have megabytes
MAX_FOLDERS = 2
_FOLDER_LEVELS = 4  # parents examined: DCIM/100CANON may lie between a clip and the folder that a person named

# Words that cameras, phones, editors and habit put into names; by themselves they do not describe the content.
_HABIT_WORDS = """
    img image images photo photos pic pics picture vid video videos mov movie movies film films mvi clip clips dsc dscn
    dscf imag gopr gopro pxl dji mah cam camera cameras rec record recorded recording recordings capture captures screen
    screenshot untitled unnamed unknown none output input export exported final copy new old edit edited trim trimmed
    sequence timeline render rendered master draft temp tmp file files part take shot scene chapter episode track title
    default main test sample example version whatsapp telegram snapchat null undefined the and for from with auto save
    saved avi mpg mpeg mkv webm raw original originals converted monday tuesday wednesday thursday friday saturday
    sunday january february march april may june july august september october november december
"""
_GENERIC_WORDS = frozenset(_HABIT_WORDS.split())
_FOLDER_HABIT_WORDS = """
    media library footage upload uploads download downloads desktop document documents data public private shared share
    home user users backup backups archive archives content misc other others folder directory storage emulated sdcard
    external internal drive disk volume volumes dcim avchd bdmv stream private work workspace project projects assets
    static resources incoming inbox root var srv opt usr etc mnt run nas import imports collection collections mobile
    phone iphone android dropbox onedrive icloud google roll my all usb signal messenger zoom
"""
_GENERIC_FOLDER_WORDS = _GENERIC_WORDS.union(_FOLDER_HABIT_WORDS.split())
_OWNER_FOLDERS = re.compile(rb"/(?:home|users|volumes|run/media)/[^/]+", re.IGNORECASE)
_CAMERA_FOLDER = re.compile(r"\d{3}[A-Z0-9_]{5}")  # 100CANON: Design rule for Camera File system, CIPA DC-009

_PROGRAM_NOISE = re.compile(
    r"lav[fc]\d|core media|iso media|gpac|bento4|handbrake|mencoder|mainconcept|libx?26[45]|x26[45] - "
    r"|isom\b|mp4[12]\b|.*\b(?:video|sound|audio|media|subtitle|text|data|metadata) ?handler\b"
    r"|(?:avc|aac|hevc|h\.26[45]) ?coding"
    r"|(?:created|encoded|made|produced|generated|rendered|processed|transcoded|converted|packed|muxed|edited|recorded)"
    r" (?:with|using|by (?:lav|ffmpeg|handbrake|google|adobe|apple|bilibili|vimeo|youtube))\b"
    r"|packed by |vid:|https?:|www\.",
    re.IGNORECASE,
)
_URL = re.compile(r"(?:https?://|ftp://|www\.)\S+", re.IGNORECASE)
_UUID = re.compile(r"(?<![^\W_])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![^\W_])", re.IGNORECASE)
_HEX = re.compile(r"(?<![^\W_])(?=[0-9a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,}(?![^\W_])", re.IGNORECASE)
# The 11 characters by which YouTube names a video, as download tools append them: "[id]", "(id)" or "-id" at the end.
_BRACKETED_ID = re.compile(r"[\[(]([A-Za-z0-9_-]{11})[\])]")
_TRAILING_ID = re.compile(r"-([A-Za-z0-9_-]{11})$")
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MARKUP = re.compile(r"<[!/?]?[A-Za-z]|[>\"']|&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,31});")
_UNSAID_ELEMENTS = re.compile(r"<(script|style)\b[^<>]{0,1000}>", re.IGNORECASE)
_MAX_QUOTED_CHARS = 2_000  # of an attribute's value
_VOWELS = frozenset("aeiouyæœø\u0131əɛɔ")  # \u0131: Turkish dotless i


@dataclass(frozen=True, slots=True)
class Description:
    """The texts of a video.

    title: for display, never empty. text: the embedded text, "" if the video has no text modality.
    documents: (kind, text) for full text search, kind `title` or `tag`.
    """

    title: str
    text: str
    documents: tuple[tuple[str, str], ...]


def describe(path: bytes, tags: Mapping[str, str], chapters: Sequence[Chapter]) -> Description:
    """Return the words of a video from its absolute path, its raw tags and the titles of chapters without times.

    Chapters with times are segments, see `text.chapter_segments`.
    A part counts for `text` if it holds a dictionary-like word of any language: in Latin script 3 or more letters with
    a vowel, in other scripts 2 or more letters (1 in Chinese, Japanese, Korean or Thai), not one of the words that
    cameras, editors and habit put into names (IMG, GoPro, untitled, months), and not part of a machine's id. "v001",
    "IMG_1234", "GX010123" and "00012" have none. Folder names (the nearest two that are not generic) are only added to
    such a text, because alone they would give every clip of a folder the same vector; full text search always has them.
    Names are split at punctuation and camelCase; control characters, ids, encoder names, web addresses and release
    marks (1080p, x264) are dropped. Full text search has the raw file stem too, so that IMG_1234 is found by name.
    """
    parents, _, name = path.rpartition(b"/")
    stem = _plain(os.path.splitext(name)[0].decode(errors="replace"))
    title_tag, *other_tags = _tag_texts(tags)
    file_words = _name_words(stem)
    folders = _folder_words(parents)
    untimed = (chapter_words(chapter) for chapter in chapters if chapter.start_s is None)
    chapter_text = ", ".join(_bounded(filter(None, untimed), MAX_DOCUMENT_CHARS))

    meaningful = [part for part in (title_tag, file_words) if _says_something(part)]
    tag_texts = [part for part in (*other_tags, chapter_text) if part]
    parts = _distinct([*meaningful, *folders, *tag_texts]) if meaningful or tag_texts else []
    text = ". ".join(part.rstrip(".") for part in _bounded(parts, MAX_TEXT_CHARS))
    titles = _distinct([stem, file_words, title_tag])
    documents = [("title", title) for title in titles]
    documents += [("tag", tag) for tag in _distinct([*folders, *tag_texts]) if tag not in titles]
    title = meaningful[0] if meaningful else stem or "untitled"
    return Description(title[:MAX_TITLE_CHARS], text, tuple(documents))


def chapter_words(chapter: Chapter) -> str:
    """Return the title of a chapter, "" if it has no meaningful word."""
    words = _tag_words(chapter.title)
    return words if _says_something(words) else ""


def documents_of(paths: Iterable[bytes], tags: Mapping[str, str], chapters: Sequence[Chapter]) -> tuple[Document, ...]:
    """Return the documents of all paths and tags of a video for full text search, each once."""
    documents = (described for path in paths for described in describe(path, tags, chapters).documents)
    return tuple(dict.fromkeys(Document("title" if kind == "title" else "tag", text) for kind, text in documents))


def _tag_texts(tags: Mapping[str, str]) -> list[str]:
    """Return the cleaned title ("" without one), then the other allowed tags with meaningful words."""
    known: dict[str, str] = {}
    for raw_key, value in tags.items():
        # Keys come as TITLE, title-eng (language of a MOV atom), com.apple.quicktime.title.
        key = raw_key.lower().rpartition(".")[2].split("-")[0].replace(" ", "_")
        words = _tag_words(value)
        if key in TEXT_TAGS and key not in known and _says_something(words):
            known[key] = words
    return [known.get("title", ""), *(known[key] for key in TEXT_TAGS[1:] if key in known)]


def _tag_words(value: str) -> str:
    """Return a tag's text without the traces of programs; a file name as a tag ("my_trip.mp4") is split like one."""
    # Twice, because some sites escape escaped text.
    plain = _plain(without_markup(without_markup(value[: 4 * MAX_DOCUMENT_CHARS])))
    if _PROGRAM_NOISE.match(plain):
        return ""
    plain = _URL.sub(" ", plain)
    if " " not in plain.strip():
        return _name_words(os.path.splitext(plain.strip())[0] if plain.isascii() else plain)
    return " ".join(_HEX.sub(" ", _UUID.sub(" ", plain)).split())[:MAX_DOCUMENT_CHARS]


def without_markup(text: str) -> str:
    """Return a text without HTML: tags, scripts and styles are removed, entities become characters.

    A `<` that begins no tag stays, and so does a tag that is never closed. Linear in the length of the text.
    """
    if "<" not in text and "&" not in text:
        return text
    text = _without_scripts(text)
    said: list[str] = []
    at = 0  # up to here `text` is in `said` or dropped
    tag_at = -1  # where an open tag begins
    skip_to = 0  # behind a quoted value
    for mark in _MARKUP.finditer(text):
        if mark.start() < skip_to:
            continue
        char = mark.group()
        if tag_at < 0 and char[0] == "&":
            said += [text[at : mark.start()], html.unescape(char)]
            at = mark.end()
        elif char[0] == "<":
            tag_at = mark.start()  # an unclosed tag before it is text
        elif tag_at >= 0 and char == ">":
            said += [text[at:tag_at], " "]
            at, tag_at = mark.end(), -1
        elif tag_at >= 0 and text[mark.start() - 1] == "=":
            end = text.find(char, mark.end(), mark.end() + _MAX_QUOTED_CHARS)
            skip_to = end + 1
    return "".join(said) + text[at:]


def _without_scripts(text: str) -> str:
    said: list[str] = []
    at = 0
    lower = text.lower()
    unclosed: set[str] = set()
    for found in _UNSAID_ELEMENTS.finditer(text):
        name = found[1].lower()
        if found.start() < at or name in unclosed:
            continue
        end = lower.find(f"</{name}", found.end())
        if end < 0:
            unclosed.add(name)
            continue
        said.append(text[at : found.start()])
        at = end
    return " ".join([*said, text[at:]])


def _name_words(name: str) -> str:
    """Return a file's or folder's name as words: "BigBuckBunny_1080p-x264" gives "Big Buck Bunny"."""
    name = _BRACKETED_ID.sub(lambda found: " " if _looks_random(found[1]) else found[0], name)
    name = _TRAILING_ID.sub(lambda found: " " if _looks_random(found[1]) else found[0], name)
    for noise in (_UUID, _URL, RELEASE_MARKS, _HEX):
        name = noise.sub(" ", name)
    name = "".join(c if c in "'\u2019&" or _is_wordlike(c) else " " for c in name)
    words: list[str] = []
    for token in name.split():
        if not _looks_random(token):
            pieces = [token] if token.lower() in _GENERIC_WORDS else _split_case(token).split()
            words.extend(word for word in pieces if not _is_counter(word))
    return " ".join(words)[:MAX_DOCUMENT_CHARS]


def _folder_words(parents: bytes) -> list[str]:
    """Return up to two names from the folders above a file, the nearest first."""
    owner = _OWNER_FOLDERS.match(parents)
    names = [name.decode(errors="replace") for name in parents[owner.end() if owner else 0 :].split(b"/") if name]
    found: list[str] = []
    for name in reversed(names[-_FOLDER_LEVELS:]):
        words = _name_words(_plain(name))
        if not _CAMERA_FOLDER.fullmatch(name) and _says_something(words, _GENERIC_FOLDER_WORDS):
            found.append(words)
    return found[:MAX_FOLDERS]


def _says_something(text: str, generic: frozenset[str] = _GENERIC_WORDS) -> bool:
    """Return whether one word of the text is dictionary-like, as `describe` defines it, and not generic."""
    letters = "".join(c if unicodedata.category(c)[0] in "LM" else " " for c in unicodedata.normalize("NFC", text))
    return any(_is_dictionary_like(run) for run in letters.split() if run.lower() not in generic)


def _is_dictionary_like(run: str) -> bool:
    base = [c for c in unicodedata.normalize("NFKD", run.lower()) if unicodedata.category(c)[0] == "L"]
    if not base:
        return False
    script = unicodedata.name(base[0], "").split(" ")[0]
    if script == "LATIN":
        return len(base) >= 3 and not _VOWELS.isdisjoint(base) and len(set(base)) > 1
    return len(base) >= (1 if script in {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI"} else 2)


def _looks_random(token: str) -> bool:
    """Return whether a token reads like a machine's id: letters, digits and cases in quick turns ("dQw4w9WgXcQ")."""
    kinds = [("d" if c.isdigit() else "u" if c.isupper() else "l") if c.isalnum() else "-" for c in token]
    turns = sum(a != b and not (a == "u" and b == "l") for a, b in pairwise(kinds))
    return "d" in kinds and len(token) >= 8 and turns >= 3 and turns * 3 >= len(token)


def _is_counter(word: str) -> bool:
    """Return whether a word is a date, a time or a running number; a year and a small number stay."""
    is_year = len(word) == 4 and word[:2] in ("19", "20")
    return word.isdigit() and not is_year and (len(word) > 2 or word[0] == "0")


def _split_case(token: str) -> str:
    """Return a token with spaces at camelCase boundaries and between longer runs of letters and digits."""
    pieces: list[str] = []
    for at, char in enumerate(token):
        before, after = token[max(at - 3, 0) : at], token[at : at + 3]
        hump = len(before) > 1 and before[-1].islower() and char.isupper()
        acronym_ends = len(after) > 2 and before[-1:].isupper() and char.isupper() and after[1:].islower()
        number = (before[-1:].isdigit() and len(after) > 2 and after.isalpha()) or (
            len(before) > 2 and before.isalpha() and char.isdigit()
        )
        pieces.append(f" {char}" if at and (hump or acronym_ends or number) else char)
    return "".join(pieces)


def _plain(text: str) -> str:
    """Return text in NFC without control, format, surrogate and unassigned characters, white space as single spaces."""
    text = _TERMINAL_CODE.sub(" ", unicodedata.normalize("NFC", text))
    kept = (" " if _is_dropped(c) else c for c in text)
    return " ".join("".join(kept).split())


def _is_dropped(char: str) -> bool:
    # Persian, Hindi and emoji need the joiners; other format characters reorder or hide text.
    return char == "\ufffd" or (unicodedata.category(char)[0] == "C" and char not in "\u200c\u200d")


def _is_wordlike(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN" or char in "\u200c\u200d"


def _distinct(parts: Iterable[str]) -> list[str]:
    """Return the non-empty parts, each once, ignoring case."""
    first = {part.casefold(): part for part in reversed([part for part in parts if part])}
    return list(reversed(first.values()))


def _bounded(parts: Iterable[str], limit: int) -> list[str]:
    """Return the leading parts with at most `limit` characters in total, the last one cut."""
    kept: list[str] = []
    for part in parts:
        kept.append(part[:limit])
        limit -= len(part)
        if limit <= 0:
            break
    return kept
