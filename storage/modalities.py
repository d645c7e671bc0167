"""The modalities: what clips are compared by. One table; everything else iterates over it.

A modality's kinds decide how it is extracted, searched and shown. No code tests a modality's name.

Imports nothing heavy: the command line names modalities in its help, which must be fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from vfindex.storage.errors import UsageError

# Key of a modality in every mapping, in `library.db` and in JSON.
ModalityName: TypeAlias = str
# frames: vectors of sampled frames. audio: vectors of sound windows. timed_text: segments, pieces of text with a span.
# video_text: documents that hold for the whole video.
Kind = Literal["frames", "audio", "timed_text", "video_text"]
# The models that a library names. The speech and the screen model recognise text; they embed nothing.
ModelKind = Literal["visual", "text", "speech", "screen", "audio"]
# What a modality is extracted from: the sampled frames, the audio, or what is known of the file without decoding it.
Origin = Literal["frames", "audio", "metadata"]
# Texts that hold for a whole video.
VideoText = Literal["title", "tag"]
VIDEO_TEXTS: tuple[VideoText, ...] = get_args(VideoText)


# How the coverage of a unit begins that lacks a modality only because a run left it out; an upgrade adds it.
NOT_READ = "not read: "


@dataclass(frozen=True, slots=True)
class Switch:
    """How runs leave a modality out.

    option: its name on the command line, without dashes, and in `library.db`. content: what is left out, in a sentence.
    coverage: of a unit without it, stored and never changed; "" if the modality itself says it.
    """

    option: str
    content: str
    coverage: str = ""


@dataclass(frozen=True, slots=True)
class Modality:
    """A modality of clips. prefix: of the query language, without its colon.

    kinds: of its tracks. model: whose encoder embeds its clips and its queries. weight: default w_m of a preset that
    names none; 0: only terms that name it count. origin: what it is extracted from. recogniser: the model that turns
    that into text, None without one. is_optional: no preset has its model, only who names one. switch: None if no run
    leaves it out.
    """

    name: ModalityName
    kinds: tuple[Kind, ...]
    prefix: str
    model: ModelKind
    weight: float
    origin: Origin
    recogniser: ModelKind | None = None
    is_optional: bool = False
    switch: Switch | None = None

    @property
    def has_frames(self) -> bool:
        """Whether its clips have frame vectors, so that pictures are compared with them."""
        return "frames" in self.kinds

    @property
    def has_words(self) -> bool:
        """Whether it has text, so that keywords match it."""
        return self.has_segments or self.has_documents

    @property
    def has_segments(self) -> bool:
        """Whether it has text with times."""
        return "timed_text" in self.kinds

    @property
    def has_documents(self) -> bool:
        """Whether it has text that holds for the whole video."""
        return "video_text" in self.kinds

    @property
    def document_kinds(self) -> tuple[str, ...]:
        """The values of `document.kind` of its text: its own name for segments, VIDEO_TEXTS for whole videos."""
        return ((self.name,) if self.has_segments else ()) + (VIDEO_TEXTS if self.has_documents else ())


# In the order of their slices in the joint vector.
# The weights are measured for `lite` on the public collection, in units of the spread of unrelated scores; all lie on
# plateaus (docs/decisions). Speech ranks alike from 0.3 to 0.5; at 1 it drowns the images.
MODALITIES: tuple[Modality, ...] = (
    Modality("visual", ("frames",), prefix="shown", model="visual", weight=1.0, origin="frames"),
    Modality(
        "speech",
        ("timed_text",),
        prefix="said",
        model="text",
        weight=0.4,
        origin="audio",
        recogniser="speech",
        switch=Switch("asr", "speech recognition"),
    ),
    Modality(
        "screen",
        ("timed_text",),
        prefix="written",
        model="text",
        weight=0.4,
        origin="frames",
        recogniser="screen",
        switch=Switch("ocr", "text on the screen", f"{NOT_READ}OCR was off or not installed"),
    ),
    Modality(
        "audio",
        ("audio",),
        prefix="heard",
        model="audio",
        weight=0.0,
        origin="audio",
        is_optional=True,
        switch=Switch("sounds", "sounds", f"{NOT_READ}sounds were off"),
    ),
    Modality("text", ("video_text", "timed_text"), prefix="titled", model="text", weight=0.4, origin="metadata"),
)


def modality_names() -> tuple[ModalityName, ...]:
    """Return the names of all modalities, in the order of their slices in the joint vector."""
    return tuple(modality.name for modality in MODALITIES)


def switches() -> dict[ModalityName, Switch]:
    """Return the modalities that runs may leave out, and how."""
    return {modality.name: modality.switch for modality in MODALITIES if modality.switch is not None}


def usual_modalities() -> tuple[ModalityName, ...]:
    """Return the modalities that a library has unless its owner does without."""
    return tuple(modality.name for modality in MODALITIES if not modality.is_optional)


def frame_modality() -> ModalityName:
    """Return the name of the modality that has frames: clips are cut by it, and pictures compared with it."""
    return next(modality.name for modality in MODALITIES if modality.has_frames)


def document_modality() -> ModalityName:
    """Return the name of the modality that has the text of whole videos: titles, folders and tags."""
    return next(modality.name for modality in MODALITIES if modality.has_documents)


def get_modality(name: ModalityName) -> Modality:
    """Return the modality of this name. Raises KeyError."""
    return {each.name: each for each in MODALITIES}[name]


def prefixes() -> dict[str, ModalityName]:
    """Return prefix of the query language -> modality."""
    return {modality.prefix: modality.name for modality in MODALITIES}


def in_table_order(names: Iterable[ModalityName]) -> tuple[ModalityName, ...]:
    """Return names in the order of the table, after it those that it lacks, sorted: a newer version knows them."""
    given = set(names)
    known = [name for name in modality_names() if name in given]
    return (*known, *sorted(given.difference(known)))


def word_modalities() -> tuple[ModalityName, ...]:
    """Return the modalities with words."""
    return tuple(modality.name for modality in MODALITIES if modality.has_words)


def spoken_modalities() -> tuple[ModalityName, ...]:
    """Return the modalities whose segments are transcripts: text with times that comes from the audio."""
    return tuple(modality.name for modality in MODALITIES if modality.has_segments and modality.origin == "audio")


def timed_text_modalities() -> tuple[ModalityName, ...]:
    """Return the modalities that have text with times."""
    return tuple(modality.name for modality in MODALITIES if modality.has_segments)


def text_tracks(track: ModalityName | None) -> tuple[ModalityName, ...]:
    """Return the modalities of one track of text with times; None: of what is said. Raises UsageError for others."""
    if track is None:
        return spoken_modalities()
    if track not in timed_text_modalities():
        raise UsageError(f"track must be one of {', '.join(timed_text_modalities())}, not {track!r}")
    return (track,)


def modality_of_document(kind: str) -> ModalityName | None:
    """Return the modality of documents of a kind; None for one that a newer version knows."""
    return next((each.name for each in MODALITIES if kind in each.document_kinds), None)
