"""Final Cut Pro XML, version 1.10, which Resolve and Premiere's converters read as well.

Times are fractions of seconds, whole multiples of a frame: `1001/30000s`.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from xml.etree import ElementTree as Xml

from vfindex.search.export.selection import Selection, Source, file_url, one_line
from vfindex.search.export.timecode import RATE_NAMES, Timebase
from vfindex.search.export.timeline import Event, Timeline, frame_count, timeline_of

VERSION = "1.10"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n'


def write_fcpxml(selection: Selection, base: Timebase | None, start_s: float) -> bytes:
    """Return a selection as a project of one sequence. base: its rate; None: that of most of the material."""
    timeline = timeline_of(selection, base, start_s)
    root = Xml.Element("fcpxml", version=VERSION)
    resources = Xml.SubElement(root, "resources")
    title = one_line(selection.title) or "vfindex"
    event = Xml.SubElement(Xml.SubElement(root, "library"), "event", name=title)
    sequence = Xml.SubElement(
        Xml.SubElement(event, "project", name=title),
        "sequence",
        format="r1",
        duration=_time(timeline.base.time_s(timeline.end - timeline.start)),
        tcStart=_time(timeline.base.time_s(timeline.start)),
        tcFormat=_mode(timeline.base),
        audioLayout="stereo",
        audioRate="48k",
    )
    _format(resources, "r1", timeline.base.rate, _size(timeline))
    spine = Xml.SubElement(sequence, "spine")
    assets = _Assets(resources)
    for each in timeline.events:
        _clip(spine, each, timeline, assets.of(each))
    Xml.indent(root)
    return (_HEAD + Xml.tostring(root, encoding="unicode") + "\n").encode()


class _Assets:
    """The files of a project, each once, with its format."""

    def __init__(self, resources: Xml.Element) -> None:
        self._resources = resources
        self._assets: dict[str, tuple[str, str]] = {}
        self._formats: dict[tuple[Fraction, tuple[int, int]], str] = {}

    def of(self, event: Event) -> tuple[str, str]:
        """Return the ids of asset and format of an event's file."""
        source, base = event.excerpt.source, event.base
        if source.fingerprint not in self._assets:
            self._assets[source.fingerprint] = (self._asset(source, base), self._format_of(source, base))
        return self._assets[source.fingerprint]

    def _format_of(self, source: Source, base: Timebase) -> str:
        key = base.rate, (source.width_px, source.height_px)
        if key not in self._formats:
            self._formats[key] = f"f{len(self._formats) + 1}"
            _format(self._resources, self._formats[key], *key)
        return self._formats[key]

    def _asset(self, source: Source, base: Timebase) -> str:
        id_ = f"a{len(self._assets) + 1}"
        asset = Xml.SubElement(
            self._resources,
            "asset",
            id=id_,
            name=source.name,
            start=_time(base.time_s(source.first_frame(base))),
            duration=_time(base.time_s(frame_count(source, base))),
            hasVideo="1",
            format=self._format_of(source, base),
            videoSources="1",
        )
        if source.has_audio:
            asset.set("hasAudio", "1")
            asset.set("audioSources", "1")
        Xml.SubElement(asset, "media-rep", kind="original-media", src=file_url(source.path))
        return id_


def _clip(spine: Xml.Element, event: Event, timeline: Timeline, ids: tuple[str, str]) -> None:
    excerpt, base = event.excerpt, timeline.base
    clip = Xml.SubElement(
        spine,
        "asset-clip",
        ref=ids[0],
        offset=_time(base.time_s(event.record_in)),
        name=excerpt.source.name,
        start=_time(event.base.time_s(event.source_in)),
        duration=_time(base.time_s(event.record_out - event.record_in)),
        format=ids[1],
        tcFormat=_mode(event.base),
    )
    notes = [excerpt.note, excerpt.text]
    if excerpt.source.varies:
        notes.append(f"variable frame rate: {excerpt.start_s:.3f} s to {excerpt.end_s:.3f} s of the file")
    if note := "; ".join(one_line(each) for each in notes if each):
        Xml.SubElement(clip, "note").text = note
    if event.base.rate != base.rate:
        # Without it, other rates are played faster or slower.
        conform = Xml.SubElement(clip, "conform-rate", scaleEnabled="0")
        if event.base.rate in RATE_NAMES:
            conform.set("srcFrameRate", RATE_NAMES[event.base.rate])


def _format(resources: Xml.Element, id_: str, rate: Fraction, size: tuple[int, int]) -> None:
    Xml.SubElement(resources, "format", id=id_, frameDuration=_time(1 / rate), width=str(size[0]), height=str(size[1]))


def _size(timeline: Timeline) -> tuple[int, int]:
    """Return the width and height that most of the files have, upright."""
    sizes = Counter((e.excerpt.source.width_px, e.excerpt.source.height_px) for e in timeline.events)
    return sizes.most_common(1)[0][0] if sizes else (1920, 1080)


def _mode(base: Timebase) -> str:
    return "DF" if base.drop else "NDF"


def _time(time_s: Fraction) -> str:
    """Return a time as FCPXML has it."""
    whole = time_s.denominator == 1
    return f"{time_s.numerator}s" if whole else f"{time_s.numerator}/{time_s.denominator}s"
