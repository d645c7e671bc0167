"""Digests as pictures: a contact sheet (PNG), or one HTML file that holds its pictures and loads nothing."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from pathlib import Path

from vfindex.cli.output import clock, plain
from vfindex.cli.render.contact_sheet import Row, Tile, contact_sheet
from vfindex.search.outline.records import Digest, Moment

# No script, no address: what a transcript or a name says is text.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --faint: #6a6a70; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
ol.moments { list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
figure { margin: 0; }
img { width: 100%; aspect-ratio: 16 / 9; object-fit: contain; background: #26262a; }
figcaption, p.facts, time { color: var(--faint); font-size: .875rem; }
ul.said { padding: 0; list-style: none; }
ul.said li { margin: .75rem 0; overflow-wrap: anywhere; }
"""


def as_png(digest: Digest) -> bytes:
    """Return the key frames of a digest as a contact sheet, in order of time."""
    tiles = tuple(Tile(_picture(each), (_span(each), f"stands for {each.share:.0%}")) for each in digest.moments)
    picture = io.BytesIO()
    contact_sheet([Row(_facts(digest), tiles)], picture, _name(digest))
    return picture.getvalue()


def as_html(digest: Digest) -> bytes:
    """Return a digest as one HTML file."""
    name = escape(_name(digest))
    moments = "\n".join(_figure(each) for each in digest.moments)
    said = "\n".join(
        f"<li><q>{escape(plain(each.text))}</q> <time>{clock(each.start_s, tenths=True)}</time></li>"
        for each in digest.sentences
    )
    return (
        '<!doctype html>\n<html>\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{name}</h1>\n<p class="facts">{escape(_facts(digest))}</p>\n'
        f'<ol class="moments">\n{moments}\n</ol>\n<ul class="said">\n{said}\n</ul>\n</body>\n</html>\n'
    ).encode()


def _figure(moment: Moment) -> str:
    picture = _picture(moment)
    shown = "" if picture is None else base64.b64encode(picture).decode("ascii")
    image = f'<img alt="" src="data:image/webp;base64,{shown}">' if shown else '<img alt="no picture">'
    return f"<li><figure>{image}<figcaption>{_span(moment)}, stands for {moment.share:.0%}</figcaption></figure></li>"


def _picture(moment: Moment) -> bytes | None:
    """Return the thumbnail of the moment's clip, None without one."""
    try:
        return None if moment.thumbnail is None else Path(moment.thumbnail).read_bytes()
    except OSError:
        return None


def _span(moment: Moment) -> str:
    return f"{clock(moment.start_s, tenths=True)}-{clock(moment.end_s, tenths=True)}"


def _name(digest: Digest) -> str:
    return plain(os.path.basename(os.fsdecode(digest.video or digest.fingerprint.encode())))


def _facts(digest: Digest) -> str:
    return f"{clock(digest.length_s, tenths=True)} of {clock(digest.duration_s, tenths=True)}"
