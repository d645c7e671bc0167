"""`vfindex upgrade`: output, exit codes and rollback, with hand-written models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import SETUP, add_video, axis, clip, prior
from library_maker import install as make

from vfindex.indexer.models.presets import Choice, models_of
from vfindex.indexer.runs import upgrade as upgrading
from vfindex.indexer.runs import version_builder
from vfindex.storage.records import FloatArray, Setup
from vfindex.storage.writer import Writer, writing

Run = Callable[..., Any]


class Sentences:
    """A text model for which all texts are one."""

    dim = 8

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([axis(1) for _ in texts])


def install(writer: Writer, choice: Choice, sampling: str, cache: Path, **_: object) -> Setup:
    """Install the models named, all of eight dimensions."""
    names = {"visual": choice.visual or "", "text": choice.text or "", "speech": choice.speech or ""}
    models = dict(SETUP.models)
    models |= {"speech": names["text"], "text": names["text"]} if names["text"] != "all-MiniLM-L6-v2" else {}
    models |= {"visual": names["visual"]} if names["visual"] != "efficientnet-lite2" else {}
    setup = replace(SETUP, preset=choice.preset or "lite", sampling=sampling, models=models, references=names)
    writer.install(setup, {"visual": prior(), "speech": prior(), "text": prior()}, {})
    return setup


@pytest.fixture(autouse=True)
def models_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrading, "install", install)
    monkeypatch.setattr(version_builder, "open_text", lambda *_, **__: Sentences())
    assert models_of(SETUP)["text"] == "all-MiniLM-L6-v2"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a library of two videos with telling titles; their files are not there."""
    with writing(tmp_path / "library") as writer:
        make(writer)
        for number, name in enumerate(("harbour at dawn", "old garden"), start=1):
            add_video(writer, name, [clip(visual=axis(number))])
        writer.publish()
    return tmp_path / "library"


def test_there_and_back(run: Run, library: Path) -> None:
    over = run("upgrade", "--text", "bge", "--library", library)
    assert (over.code, over.err) == (0, "comparing the old and new models by 2 known-item questions\n")
    asked, head, said, changed, counts, last = over.out.splitlines()
    assert (asked, said.split()) == (
        "known-item questions, before -> after",
        ["titles", "2", "1.000", "->", "1.000", "0.500", "->", "0.500"],
    )
    assert head.split() == ["n", "recall@10", "found", "first"]
    assert changed == "text all-MiniLM-L6-v2 -> bge"
    assert counts.startswith("2 videos, 2 clips in ")
    assert counts.endswith(
        "2 copied unread, 0 with audio decoded again, 0 decoded again, 0 of them with their old transcript"
    )
    assert last.startswith(f"now in use; to return to the old models: vfindex upgrade --library {library} --rollback; ")
    status = json.loads(run("status", "--json", "--library", library).out)
    assert (status["library"], status["videos"], status["last_run"]["command"]) == (str(library), 2, "upgrade")
    assert run("remove", "/videos/harbour at dawn", "--library", library).code == 0
    assert run("verify", "--library", library).code == 0
    back = run("upgrade", "--rollback", "--library", library)
    assert (back.code, back.out) == (0, "the previous models are in use again: preset lite, sampling auto\n")
    again = run("upgrade", "--rollback", "--library", library)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "no model version before this one" in again.err


def test_a_rollback_says_what_it_lacks_and_a_discarding_what_it_frees(run: Run, library: Path) -> None:
    run("upgrade", "--text", "bge", "--library", library)
    with writing(library) as writer:
        add_video(writer, "third", [clip(visual=axis(1))])
        writer.publish()
    back = run("upgrade", "--rollback", "--library", library, "--json")
    assert json.loads(back.out) == {"edition": str(library), "preset": "lite", "lacking": 1}
    freed = run("upgrade", "--discard", "--library", library)
    assert freed.out.startswith("deleted 1 set of models and vectors not in use: ")
    assert freed.out.rstrip().endswith("kB freed")
    assert run("upgrade", "--discard", "--library", library).out.startswith("nothing to delete")
    assert json.loads(run("upgrade", "--discard", "--library", library, "--json").out) == {"discarded": [], "bytes": 0}


def test_videos_that_would_be_lost_are_named(run: Run, library: Path) -> None:
    over = run("upgrade", "--visual", "ViT", "--library", library)
    assert over.code == 1
    assert [line.split(": ")[:2] for line in over.err.splitlines()] == [
        ["lost", "/videos/harbour at dawn"],
        ["lost", "/videos/old garden"],
    ]
    assert over.out.splitlines()[-1] == "2 videos would be lost: the old models stay in use"
    document = json.loads(run("upgrade", "--visual", "ViT", "--library", library, "--json").out)
    assert (document["swapped"], document["known_items"], [row["path"] for row in document["lost"]]) == (
        False,
        [],
        ["/videos/harbour at dawn", "/videos/old garden"],
    )
    forced = run("upgrade", "--visual", "ViT", "--library", library, "--allow-missing", "--json")
    assert (forced.code, json.loads(forced.out)["swapped"]) == (0, True)


def test_wrong_usage_is_one_sentence(run: Run, library: Path, tmp_path: Path) -> None:
    for arguments, says in (
        (("--rollback", "--discard"), "give one of them"),
        (("--rollback", "--preset", "lite"), "give one of them"),
        (("--preset", "bse"), "there is no preset 'bse'"),
        (("--sampling", "often"), "--sampling takes auto"),
    ):
        ran = run("upgrade", *arguments, "--library", library)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert says in ran.err
    for arguments in (("--rollback",), ("--discard",), ("--preset", "lite")):
        ran = run("upgrade", *arguments, "--library", tmp_path / "none")
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert "there is no library in" in ran.err
        assert not (tmp_path / "none").exists()
    for arguments in (("--preset", "lite"), ()):
        same = run("upgrade", *arguments, "--library", library)
        assert (same.code, same.out) == (0, "nothing to do: the library has these models already\n")
