"""`vfindex watch`: news on standard output, as a page, as a feed, and to a command, each hit once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from library_maker import add_video, axis, clip

from vfindex.cli.commands import reindex as reindex_command
from vfindex.indexer.runs import reindex as indexer_reindex
from vfindex.indexer.runs.report import Report
from vfindex.storage.records import Segment
from vfindex.storage.user.watches import WatchData
from vfindex.storage.writer import writing

NAME = "$(touch owned); `id` {name}.mp4"


@pytest.fixture(autouse=True)
def chosen(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Any) -> Path:
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    monkeypatch.chdir(tmp_path)
    return library


def arrive(library: Path, *names: str) -> None:
    """Commit videos in which a fox is spoken of."""
    with writing(library) as writer:
        for name in names:
            said = [Segment(0, 5, "a <red> fox", "sidecar", "en")]
            add_video(writer, name, [clip(visual=axis(2), speech=axis(3))], said)
        writer.publish()


def test_news_are_told_once(run: Any, chosen: Path) -> None:
    assert run("watch", "add", "fox", "said:fox").err == "watching fox: said:fox\n"
    ran = run("watch", "run")
    assert (ran.code, ran.out, ran.err) == (0, "", "0 new hits\n")
    arrive(chosen, "n.mp4")
    assert run("watch", "run", "fox").out.split("\t") == ["1", "fox", "0:00-0:05", "words found", "/videos/n.mp4\n"]
    assert run("watch", "run").out == ""
    arrive(chosen, "o.mp4")
    document = json.loads(run("watch", "run", "--json").out)
    [item] = document["news"]
    assert (item["id"], item["watch"], item["video"], item["snippet"]) == (2, "fox", "/videos/o.mp4", "a <red> fox")
    assert (item["presence"], item["preview"], item["told_at"]) == ("present", False, "")
    assert run("watch", "list").out == "fox\tsaid:fox\t0\t2\n"
    assert json.loads(run("watch", "remove", "fox", "--json").out)["hits"] == 2
    ran = run("watch", "run")
    assert (ran.code, ran.out) == (1, "")
    assert "no question is watched; watch one with: vfindex watch add" in ran.err
    assert run("watch", "list").code == 1


def test_page_and_feed_hold_each_hit_once_and_escape_it(run: Any, chosen: Path, tmp_path: Path) -> None:
    run("watch", "add", "fox", "said:fox")
    page, feed = tmp_path / "news.html", tmp_path / "news.xml"
    for name in ("<b>.mp4", "o.mp4"):
        arrive(chosen, name)
        assert run("watch", "run", "--page", page, "--feed", feed).code == 0
    text = page.read_text()
    assert text.count("&lt;red&gt; fox") == 2 and "<red>" not in text and "/videos/&lt;b&gt;.mp4" in text
    assert text.count('<tr class="new">') == 1
    ids = [each.text for each in ElementTree.parse(feed).iter("{http://www.w3.org/2005/Atom}id")]
    assert len(ids) == len(set(ids)) == 3
    feed.write_text("my notes")
    ran = run("watch", "run", "--feed", feed)
    assert (ran.code, feed.read_text()) == (2, "my notes")


SCRIPT = """
import json, sys
with open("calls", "a") as file:
    print(json.dumps([*sys.argv[1:], json.load(sys.stdin)["id"]]), file=file)
sys.exit(sys.argv[2] == "bad")
"""


def test_a_command_gets_its_arguments_without_a_shell(run: Any, chosen: Path, tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(SCRIPT)
    run("watch", "add", "fox", "said:fox")
    run("watch", "add", "bad", "said:red")
    arrive(chosen, NAME)
    command = f"{sys.executable} tell.py {{video}} {{name}}"
    ran = run("watch", "run", "--exec", command)
    assert ran.code == 1
    assert "ended with status 1; hit 1 is reported again by the next run" in ran.err
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [[f"/videos/{NAME}", "bad", 1], [f"/videos/{NAME}", "fox", 2]]
    assert not (tmp_path / "owned").exists()
    run("watch", "run", "--exec", command)
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[1] for call in calls] == ["bad", "fox", "bad"]  # what succeeded is not repeated


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "--exec", "no-such-program"), 1, "no-such-program cannot be started"),
        (("run", "--exec", ""), 2, "--exec is empty"),
        (("run", "--exec", "true {nope}"), 2, "--exec has {nope}; it may have {name}, {question}, {video}, {start}, "),
        (("add", "b ad\nname", "dog"), 2, "the name has a line break or another control character"),
        (("run", "--exec", "'open"), 2, "--exec cannot be read (No closing quotation)"),
        (("run", "other"), 1, "no question named other is watched"),
        (("remove", "other"), 1, "no question named other is watched"),
        (("add", "x", "in:"), 1, "the filter in: needs a value"),
        (("add", "x", "dog", "--min-confidence", "none"), 2, "'none' is not one of 'low', 'medium', 'high'"),
        (("add", "x", "dog", "--min-confidence", "best"), 2, "'best' is not one of 'low', 'medium', 'high'"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    run: Any, chosen: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    run("watch", "add", "fox", "said:fox")
    arrive(chosen, "n.mp4")
    ran = run("watch", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err and "Traceback" not in ran.err
    assert all(not each.told for each in WatchData.open(chosen).hits())


def test_a_program_that_is_missing_is_named_before_there_is_news(run: Any, chosen: Path) -> None:
    run("watch", "add", "fox", "said:fox")
    ran = run("watch", "run", "--exec", "./nohook.sh {name}")
    assert (ran.code, ran.out) == (1, "") and "./nohook.sh cannot be started" in ran.err


def test_an_empty_library_is_a_sentence(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFINDEX_LIBRARY", str(tmp_path / "empty"))
    with writing(tmp_path / "empty"):
        pass
    ran = run("watch", "add", "fox", "a fox")
    assert (ran.code, ran.out) == (0, "")
    assert "no labels (not calibrated yet); new videos found by that alone wait until it has" in ran.err
    assert run("watch", "run", "--json").code == 0
    assert "no library" in run("watch", "list", "--library", tmp_path / "none").err


def test_a_reindex_asks_the_watches_and_leaves_the_report_to_their_run(
    run: Any, chosen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("watch", "add", "fox", "said:fox")

    def night(*_: Any) -> Report:
        arrive(chosen, "n.mp4")
        return Report(found=1, indexed=1)

    monkeypatch.setattr(indexer_reindex, "reindex", night)
    monkeypatch.setattr("vfindex.cli.run.calibrate_if_due", lambda *_: None)
    ran = run(reindex_command.NAME)
    assert ran.code == 0
    assert "watch fox: 1 new hit; to see: vfindex watch run fox" in ran.err
    assert "/videos/n.mp4" in run("watch", "run").out
    assert "watch fox" not in run(reindex_command.NAME).err.replace("asking", "")
