"""News outside the library: the feed, the page, and the arguments of a user's command."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vfindex.cli.render.news_page import news_page
from vfindex.search.understanding.feed import atom, item_id
from vfindex.search.understanding.news import NewsItem, arguments_of
from vfindex.storage.records import ClipKey


@pytest.fixture
def item() -> NewsItem:
    return NewsItem(
        7, "a&b", "said:<fox>", os.fsencode("/videos/$(touch x) {name}.mp4"), "present", "f", ClipKey("f", 0), 1.5, 2.0,
        0.5, "high", False, "it said \x1b[31m & <b>", "2026-01-02T03:04:05+00:00", "",
    )  # fmt: skip


def test_a_feed_is_well_formed_and_keeps_its_ids(item: NewsItem) -> None:
    moved = replace(item, video=b"/videos/\xff.mp4")
    document = atom([item], "news", Path("/library"))
    [entry] = ElementTree.fromstring(document).iter("{http://www.w3.org/2005/Atom}entry")
    assert entry.findtext("{http://www.w3.org/2005/Atom}id") == item_id(item) == item_id(moved)
    assert "it said  [31m & <b>" in (entry.findtext("{http://www.w3.org/2005/Atom}summary") or "")
    ElementTree.fromstring(atom([moved, replace(item, video=None, presence="gone")], "news", Path("/library")))
    assert atom([item], "news", Path("/library")) == document


def test_a_feed_of_a_hostile_library_is_well_formed(item: NewsItem) -> None:
    document = atom([replace(item, found_at="2026</updated><link href='x'/>\x01")], "news", Path("/library\udcff"))
    feed = ElementTree.fromstring(document)
    assert feed.findtext("{http://www.w3.org/2005/Atom}id") == "tag:vfindex,2026:watches//library%FF"
    assert [each.get("href") for each in feed.iter("{http://www.w3.org/2005/Atom}link")] == [
        Path(os.fsdecode(item.video or b"")).as_uri()
    ]
    relative = replace(item, video=b"a.mp4")
    ElementTree.fromstring(atom([relative], "news", Path("/library")))
    assert "<td>a.mp4</td>" in news_page([relative], ())


def test_placeholders_are_filled_once_and_stay_one_argument(item: NewsItem) -> None:
    filled = arguments_of(["tell", "{name}", "--at={start}", "{video}", "{other}", "{id}"], item)
    assert filled == ["tell", "a&b", "--at=1.500", "/videos/$(touch x) {name}.mp4", "{other}", "7"]
