"""The news of watched questions as an Atom feed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from vfindex.search.understanding.news import NewsItem

# Entries of a feed or a page, the newest: what a reader that looks once a week has missed.
SHOWN_ITEMS = 200
_ATOM = "http://www.w3.org/2005/Atom"


def item_id(item: NewsItem) -> str:
    """Return the id of an item outside the library, as an IRI (RFC 4151) that stays when the file moves."""
    return f"tag:vfindex,2026:watch/{quote(item.watch, safe='')}/{item.id}/{quote(item.fingerprint, safe='')}"


def atom(items: Sequence[NewsItem], title: str, library: Path, site: str = "") -> bytes:
    """Return the newest SHOWN_ITEMS items as an Atom feed (RFC 4287), the newest first. All text is escaped.

    site: of the server whose pages the links lead to; without one, they lead to the files. The feed of the same items
    is the same bytes, and an entry keeps its id: a reader shows each once.
    """
    newest = sorted(items, key=lambda each: -each.id)[:SHOWN_ITEMS]
    updated = newest[0].found_at if newest else "1970-01-01T00:00:00+00:00"
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<feed xmlns="{_ATOM}">',
        f"<id>tag:vfindex,2026:watches/{quote(os.fsencode(library))}</id>",
        f"<title>{_text(title)}</title>",
        f"<updated>{_text(updated)}</updated>",
        "<author><name>vfindex</name></author>",
        *(_entry(each, site) for each in newest),
        "</feed>",
    ]
    return ("\n".join(lines) + "\n").encode()


def _entry(item: NewsItem, site: str) -> str:
    place = place_of(item)
    address = f"{site}/videos/{quote(item.fingerprint)}?t={max(0.0, item.start_s):.3f}" if site else address_of(item)
    link = f"<link href={quoteattr(address)}/>" if address else ""
    words = f"{item.question}: {place}" + (f"; {item.snippet}" if item.snippet else "")
    return (
        f"<entry><id>{item_id(item)}</id><title>{_text(f'{item.watch}: {place}')}</title>"
        f"<updated>{_text(item.found_at)}</updated>{link}<summary>{_text(words)}</summary></entry>"
    )


def address_of(item: NewsItem) -> str:
    """Return the file of an item as a URL, "" where there is none; a library from elsewhere may have relative paths."""
    return Path(os.fsdecode(item.video)).as_uri() if item.video and os.path.isabs(item.video) else ""


def place_of(item: NewsItem) -> str:
    """Return video and times of an item as text."""
    name = item.fingerprint if item.video is None else os.path.basename(item.video).decode("utf-8", "backslashreplace")
    gone = {"present": "", "missing": " (file missing)", "gone": " (not in the library any more)"}[item.presence]
    return f"{name}{gone} {item.start_s:.1f}-{item.end_s:.1f} s"


def _text(words: str) -> str:
    """Return text for XML 1.0, without the characters that it cannot hold."""
    return escape(
        "".join(c if c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and c not in "\ufffe\uffff" else " " for c in words)
    )
