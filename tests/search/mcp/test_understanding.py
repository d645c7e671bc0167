"""The tools for tasks beyond one search: their documents, and that a task ends when nobody waits for it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from asking import calibrated_speech, labelled
from library_maker import add_video, axis, clip

from vfindex.search.mcp.documents import NOTICE
from vfindex.search.mcp.tool import Call
from vfindex.search.mcp.tools import tools_of
from vfindex.search.mcp.understanding import task_tools
from vfindex.search.service import SearchService
from vfindex.storage.errors import QueryError, QueryTimeout
from vfindex.storage.records import Segment
from vfindex.storage.writer import writing


def test_an_answer_quotes_with_a_link_or_says_that_there_is_none(agent: Agent, folder: Path) -> None:
    calibrated_speech(folder)
    found = agent.call("ask_library", question="line 2", video="other/beach")
    assert (found["says"], found["reason"], found["notice"]) == (True, None, NOTICE)
    moment = found["moments"][0]
    assert moment["video"] == "v2" and "/videos/v2?t=" in moment["link"]
    assert "line 2. Ignore" in " ".join(each["untrusted_text"] for each in moment["quotations"])
    assert moment["quotations"][0]["track"] == "speech"
    nothing = agent.call("ask_library", question="zebra")
    assert (nothing["says"], nothing["reason"], nothing["moments"]) == (False, "the library does not say", [])


def test_chapters_and_a_summary_are_of_bounded_size(agent: Agent, folder: Path) -> None:
    said = [Segment(5.0 * n, 5.0 * n + 4, f"{'dough ' * 300}{n // 10}", "asr", "en") for n in range(60)]
    with writing(folder) as writer:
        clips = [clip(5.0 * n, 5.0 * n + 5, visual=axis(n // 10)) for n in range(60)]
        add_video(writer, "parts", clips, said, end_s=300.0)
    found = agent.call("get_chapters", video="parts")
    assert (found["origin"], found["better_than_chance"], found["left_out"]) == ("found", True, 0)
    assert [each["start_s"] for each in found["chapters"]] == [0, 50, 100, 150, 200, 250]
    assert max(len(each["untrusted_sentence"]) for each in found["chapters"]) <= 500
    digest = agent.call("summarise_video", video="parts", length_s=30)
    assert [each["start_s"] // 50 for each in digest["excerpts"]] == [*range(6)]
    assert sum(each["stands_for"] for each in digest["excerpts"]) == pytest.approx(1.0, abs=0.01)
    assert all(each["clip"].startswith("parts:") and each["link"] for each in digest["excerpts"])


def test_unusual_clips_and_copies_say_what_is_chance(agent: Agent, service: SearchService) -> None:
    found = agent.call("find_unusual", limit=2)
    assert [each["stands_out"] for each in found["clips"]] == [
        each.stands_out for each in service.unusual(top_k=2).clips
    ]
    assert found["scored"] == 8 and {"deviation", "nearest", "link"} <= found["clips"][0].keys()
    copies = agent.call("find_duplicates", filters="in:Trip")
    assert (copies["groups"], copies["videos"], copies["left_out"]) == ([], 2, 0)


def test_labels_are_listed_and_filter(agent: Agent, folder: Path) -> None:
    assert agent.call("list_labels") == {"notice": NOTICE, "labels": [], "left_out": 0}
    labelled(folder)
    assert agent.call("list_labels")["labels"] == [{"untrusted_name": "at sea", "videos": 2, "clips": 2}]
    hits = agent.call("search_moments", query='line label:"at sea"', include_unlikely=True)["hits"]
    labelled(folder, "more", 1)
    names = {each["untrusted_name"]: each["videos"] for each in agent.call("list_labels")["labels"]}
    assert names == {"kinds/at sea": 2, "more/at sea": 1}
    assert {hit["video"] for hit in hits} == {"v0", "v1"}


def test_one_of_several_libraries_is_asked(folder: Path, tmp_path: Path, service: SearchService) -> None:
    second = tmp_path / "second"
    shutil.copytree(folder, second)
    labelled(second)
    with SearchService([folder, second]) as both:
        tools = {each.name: each for each in tools_of(both)}

        def asked(name: str, **given: Any) -> Any:
            return tools[name].answer(given, Call(lambda *_: None, lambda: False)).document

        assert asked("list_labels")["labels"] == []
        assert [each["untrusted_name"] for each in asked("list_labels", library=1)["labels"]] == ["at sea"]
        assert asked("find_unusual", library=1, filters='label:"at sea"', among="longer:1s")["scored"] == 4
        assert asked("find_duplicates", library=1, filters='label:"at sea"')["videos"] == 2
        assert asked("library_status", library=1, filters='label:"at sea"', list_videos=5)["total"] == 2
        with pytest.raises(QueryError, match="no library 2; of 2 libraries, the first is 0"):
            asked("list_labels", library=2)


@pytest.mark.parametrize("name", ["get_chapters", "summarise_video", "find_unusual", "find_duplicates"])
def test_a_task_ends_when_nobody_waits(name: str, service: SearchService, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: Any, progress: Any, **__: Any) -> Any:
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            progress(0, 1)

    for method in ("chapters", "digest", "unusual", "duplicates"):
        monkeypatch.setattr(service, method, endless)
    [tool] = [each for each in task_tools(service) if each.name == name]
    given = {"video": "v1"} if any(each.required for each in tool.params) else {}
    with pytest.raises(QueryTimeout):
        tool.answer(given, Call(lambda *_: None, lambda: True))
