"""Tags for other programs, as sidecars of a video: XMP (ISO 16684-1) with markers, and NFO of Kodi and Jellyfin.

Nothing is written into a video, and no file of another program is replaced.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree as Xml

from vfindex.search.export.selection import Excerpt, Selection, one_line
from vfindex.storage.files.regular import regular_no_link

# One of these is in the first bytes of each sidecar that vfindex wrote; others belong to somebody else, whatever they
# tag. Programs that change an XMP file put their own name there.
TOOLKIT = "vfindex"
SIGNS = (f'xmptk="{TOOLKIT}"'.encode(), f"<!-- made by {TOOLKIT} -->".encode())
_SIGNED_BYTES = 400
_RDF, _DC = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://purl.org/dc/elements/1.1/"
_META, _MEDIA = "adobe:ns:meta/", "http://ns.adobe.com/xmp/1.0/DynamicMedia/"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# Markers of a video without frame rate: in milliseconds.
_MS = Fraction(1000)


def by_video(selection: Selection) -> list[list[Excerpt]]:
    """Return the excerpts of each video, in order of time."""
    found: dict[str, list[Excerpt]] = {}
    for excerpt in selection.once().excerpts:
        found.setdefault(excerpt.source.fingerprint, []).append(excerpt)
    return [sorted(each, key=lambda excerpt: excerpt.start_s) for each in found.values()]


def write_xmp(title: str, excerpts: Sequence[Excerpt]) -> bytes:
    """Return the tags of one video as XMP: subjects, and its moments as markers. title: of the selection."""
    for prefix, uri in (("x", _META), ("rdf", _RDF), ("dc", _DC), ("xmpDM", _MEDIA)):
        Xml.register_namespace(prefix, uri)
    root = Xml.Element(f"{{{_META}}}xmpmeta", {f"{{{_META}}}xmptk": TOOLKIT})
    about = Xml.SubElement(Xml.SubElement(root, f"{{{_RDF}}}RDF"), f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": ""})
    subjects = Xml.SubElement(Xml.SubElement(about, f"{{{_DC}}}subject"), f"{{{_RDF}}}Bag")
    for tag in _tags(title, excerpts):
        Xml.SubElement(subjects, f"{{{_RDF}}}li").text = tag
    if notes := _notes(excerpts):
        described = Xml.SubElement(Xml.SubElement(about, f"{{{_DC}}}description"), f"{{{_RDF}}}Alt")
        Xml.SubElement(described, f"{{{_RDF}}}li", {_LANGUAGE: "x-default"}).text = notes
    rate = excerpts[0].source.rate or _MS
    tracks = Xml.SubElement(Xml.SubElement(about, f"{{{_MEDIA}}}Tracks"), f"{{{_RDF}}}Bag")
    track = _resource(tracks)
    Xml.SubElement(track, f"{{{_MEDIA}}}trackName").text = "vfindex"
    Xml.SubElement(track, f"{{{_MEDIA}}}trackType").text = "Comment"
    over = f"s{rate.denominator}" if rate.denominator > 1 else ""
    Xml.SubElement(track, f"{{{_MEDIA}}}frameRate").text = f"f{rate.numerator}{over}"
    markers = Xml.SubElement(Xml.SubElement(track, f"{{{_MEDIA}}}markers"), f"{{{_RDF}}}Seq")
    for excerpt in excerpts:
        marker = _resource(markers)
        first, last = (round(Fraction(t - excerpt.source.start_s) * rate) for t in (excerpt.start_s, excerpt.end_s))
        Xml.SubElement(marker, f"{{{_MEDIA}}}startTime").text = str(max(0, first))
        Xml.SubElement(marker, f"{{{_MEDIA}}}duration").text = str(max(1, last - first))
        Xml.SubElement(marker, f"{{{_MEDIA}}}name").text = one_line(title)
        if words := one_line(excerpt.note or excerpt.text):
            Xml.SubElement(marker, f"{{{_MEDIA}}}comment").text = words
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode").encode() + b"\n"


def _resource(parent: Xml.Element) -> Xml.Element:
    item = Xml.SubElement(parent, f"{{{_RDF}}}li", {f"{{{_RDF}}}parseType": "Resource"})
    return item


def write_nfo(title: str, excerpts: Sequence[Excerpt]) -> bytes:
    """Return the tags of one video as NFO. title: of the selection."""
    source = excerpts[0].source
    root = Xml.Element("movie")
    Xml.SubElement(root, "title").text = source.title or source.name
    if notes := _notes(excerpts):
        Xml.SubElement(root, "plot").text = notes
    for tag in _tags(title, excerpts):
        Xml.SubElement(root, "tag").text = tag
    Xml.indent(root)
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n{SIGNS[1].decode()}\n'
    return (head + Xml.tostring(root, encoding="unicode") + "\n").encode()


def _tags(title: str, excerpts: Sequence[Excerpt]) -> list[str]:
    """Return the names of the lists, or what was searched for, each once."""
    names = [each.list for each in excerpts if each.list] or [title]
    return [tag for tag in dict.fromkeys(one_line(name) for name in names) if tag]


def _notes(excerpts: Sequence[Excerpt]) -> str:
    return "; ".join(dict.fromkeys(one_line(each.note) for each in excerpts if each.note.strip()))


def sidecar_path(video: bytes, suffix: str, folder: Path | None) -> Path:
    """Return where the sidecar of a video belongs: `beach.mp4.xmp`, `beach.nfo`; in `folder`, or next to the video."""
    at = Path(os.fsdecode(video))
    name = f"{at.name}.xmp" if suffix == "xmp" else f"{at.stem}.nfo"
    return (at.parent if folder is None else folder) / name


def is_foreign(path: Path) -> bool:
    """Return whether there is something that vfindex did not write: a link too, or what cannot be read."""
    try:
        with open(path, "rb", opener=regular_no_link) as file:
            head = file.read(_SIGNED_BYTES)
    except OSError:  # a link, a folder, what cannot be read; or nothing, where no file of this name can be
        return os.path.lexists(path)
    return not any(sign in head for sign in SIGNS)
