"""The structure of Final Cut Pro XML 1.10 as its DTD has it, and a check of documents against it."""

from __future__ import annotations

import re
from fractions import Fraction
from xml.etree import ElementTree as Xml

# Of the DTD, what may be in a document with clips of files: element -> the order of its children as a pattern of names
# that end in a space, and its attributes with the pattern of their values; in capitals those that are required.
TIME, ID, FLAG, MODE, TEXT = r"\d+(/\d+)?s", r"[a-z]\d+", "[01]", "DF|NDF", r"[^\n]*"
DTD: dict[str, tuple[str, dict[str, str], set[str]]] = {
    "fcpxml": ("(import-options )?(resources )?((library )|(event )*)", {"version": r"1\.10"}, {"version"}),
    "resources": ("((asset )|(effect )|(format )|(media )|(locator ))*", {}, set()),
    "format": ("", {"id": ID, "name": TEXT, "frameDuration": TIME, "width": r"\d+", "height": r"\d+"}, {"id"}),
    "asset": (
        "(media-rep )+(metadata )?",
        {
            **{"id": ID, "name": TEXT, "uid": TEXT, "start": TIME, "duration": TIME, "format": ID},
            **{"hasVideo": "1", "hasAudio": "1", "videoSources": r"\d+", "audioSources": r"\d+"},
        },
        {"id"},
    ),
    "media-rep": ("(bookmark )?", {"kind": "original-media|proxy-media", "src": r"file:///[!-~]*"}, {"src"}),
    "library": ("((event )|(smart-collection ))*", {"location": TEXT}, set()),
    "event": ("((asset-clip )|(project ))*", {"name": TEXT, "uid": TEXT}, set()),
    "project": ("(sequence )", {"name": TEXT, "uid": TEXT, "id": ID, "modDate": TEXT}, set()),
    "sequence": (
        "(note )?(spine )(metadata )?",
        {
            **{"format": ID, "duration": TIME, "tcStart": TIME, "tcFormat": MODE},
            **{"audioLayout": "mono|stereo|surround", "audioRate": r"32k|44\.1k|48k|88\.2k|96k|176\.4k|192k"},
        },
        {"format"},
    ),
    "spine": (
        "((asset-clip )|(gap )|(transition ))*",
        {"lane": TEXT, "offset": TIME, "name": TEXT, "format": ID},
        set(),
    ),
    "asset-clip": (
        "(note )?(conform-rate )?(timeMap )?((marker )|(keyword ))*(metadata )?",
        {
            **{"ref": ID, "lane": TEXT, "offset": TIME, "name": TEXT, "start": TIME, "duration": TIME, "enabled": FLAG},
            **{"format": ID, "tcStart": TIME, "tcFormat": MODE, "audioRole": TEXT, "videoRole": TEXT},
        },
        {"ref"},
    ),
    "note": ("", {}, set()),
    "conform-rate": (
        "",
        {"scaleEnabled": FLAG, "srcFrameRate": r"23\.98|24|25|29\.97|30|60|47\.95|48|50|59\.94"},
        set(),
    ),
}


def checked(data: bytes) -> Xml.Element:
    """Return the root of a document that has the structure of the DTD."""
    text = data.decode()
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n<fcpxml ')
    root = Xml.fromstring(data)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        children, attributes, required = DTD[element.tag]
        assert re.fullmatch(children, "".join(f"{child.tag} " for child in element)), element.tag
        assert element.tag == "note" or not (element.text or "").strip()
        assert required <= set(element.attrib) <= set(attributes), element.attrib
        for name, value in element.attrib.items():
            assert re.fullmatch(attributes[name], value), (element.tag, name, value)
        assert all(element.get(name) in ids for name in ("ref", "format") if element.get(name))
    return root


def seconds(element: Xml.Element, name: str) -> Fraction:
    return Fraction(str(element.get(name)).removesuffix("s"))
