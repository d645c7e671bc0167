"""News of watched questions as one self-contained HTML page, without scripts."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from html import escape
from typing import TYPE_CHECKING

from vfindex.cli.output import clock, plain
from vfindex.search.understanding.feed import address_of

if TYPE_CHECKING:
    from vfindex.search.understanding.news import NewsItem

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left;"
    "vertical-align:top;overflow-wrap:anywhere}th{font-weight:600}tr.new td{font-weight:600}"
)
_HEADS = ("found", "question", "video", "time", "confidence", "said")


def news_page(items: Sequence[NewsItem], new: Collection[int]) -> str:
    """Return a page of the items, the newest first; all text is escaped. new: ids of those that are reported now."""
    shown = sorted(items, key=lambda each: -each.id)
    heads = "".join(f"<th>{head}</th>" for head in _HEADS)
    rows = "\n".join(_row(each, is_new=each.id in new) for each in shown)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>vfindex: news</title><style>{_STYLE}</style></head><body>\n<h1>vfindex: news</h1>\n"
        f"<p>{len(new)} new, {len(shown)} shown; new ones are bold.</p>\n"
        f"<table>\n<tr>{heads}</tr>\n{rows}\n</table>\n</body></html>\n"
    )


def _row(item: NewsItem, *, is_new: bool) -> str:
    label = (item.confidence or "words found") + (", preview" if item.preview else "")
    span = f"{clock(item.start_s)}-{clock(item.end_s)}"
    question = f"{item.watch}: {item.question}"
    cells = [_text(each) for each in (item.found_at, question, span, label, item.snippet or "")]
    cells.insert(2, _video(item))
    kind = ' class="new"' if is_new else ""
    return f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _video(item: NewsItem) -> str:
    if item.video is None:
        return _text(f"{item.fingerprint} ({item.presence})")
    name, address = _text(os.fsdecode(item.video)), address_of(item)
    return f'<a href="{escape(address)}">{name}</a>' if address else name


def _text(words: str) -> str:
    return escape(plain(words))
