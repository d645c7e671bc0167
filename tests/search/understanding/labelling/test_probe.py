"""The linear probe: learns what texts do not say, is compared with chance, and needs examples of every class."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from vfindex.cli.app import main
from vfindex.search.understanding.labelling.classes import ClassSet, LabelClass
from vfindex.search.understanding.labelling.label import Labelling, label_library
from vfindex.search.understanding.labelling.probe import (
    Examples,
    binomial_tail,
    chance_of,
    fit_probe,
    held_out_scores,
    learn_probe,
)
from vfindex.storage.errors import QueryError, UsageError, VfindexError
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.records import FloatArray

pytest.importorskip("sklearn", reason="scikit-learn fits the probe: pip install 'vfindex[index]'")


@pytest.fixture(scope="module")
def kinds(make_kinds: Callable[[float], Path]) -> Path:
    return make_kinds(0.6)


def by_examples(*named: tuple[str, str, int]) -> ClassSet:
    """Return classes whose names say nothing: (name, kind of its examples, number of the first)."""
    classes = [
        LabelClass(name, (), tuple(f"{kind} {number}.mp4@1" for number in range(first, first + 12, 3)))
        for name, kind, first in named
    ]
    return ClassSet("letters", tuple(classes))


TWO = by_examples(("alpha", "cooking", 0), ("beta", "sport", 1))


def labels_of(done: Labelling, kind: str) -> list[str]:
    return [each.label for each in done.videos if f"/{kind} " in (each.video or b"").decode()]


def test_it_learns_classes_whose_names_say_nothing(kinds: Path) -> None:
    done = label_library(kinds, TWO, store=False)
    assert done.method == "linear probe" and done.better and done.chance < 0.01
    assert labels_of(done, "cooking").count("alpha") >= 7 and labels_of(done, "sport").count("beta") >= 7
    assert label_library(kinds, TWO, store=False, by_text=True).method == "zero-shot"


def test_examples_without_a_common_kind_are_no_better_than_chance(make_kinds: Callable[[float], Path]) -> None:
    done = label_library(make_kinds(0.0), TWO)
    assert not done.better and done.stored == 0


def test_most_videos_of_a_library_are_of_no_class(make_kinds: Callable[..., Path]) -> None:
    done = label_library(make_kinds(0.6, others=60), TWO, store=False)
    assert done.better and done.none is not None
    assert labels_of(done, "cooking").count("alpha") >= 7 and labels_of(done, "sport").count("beta") >= 7
    assert done.none.videos >= 55  # of 60


def test_few_examples_get_a_warning(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(examples: int) -> str:
        classes = [{"name": each.name, "examples": list(each.examples)} for each in TWO.classes]
        classes[1]["examples"] = classes[1]["examples"][:examples]
        (tmp_path / "letters.json").write_text(json.dumps({"classes": classes}), encoding="utf-8")
        words = ["vfindex", "label", str(tmp_path / "letters.json"), "--dry-run", "--library", str(kinds)]
        monkeypatch.setattr(sys, "argv", words)
        with suppress(SystemExit):
            main()
        return capsys.readouterr().err

    assert "fewer than 4 examples of beta: labels may well be wrong" in said(3)
    assert "fewer than" not in said(4)


def test_classes_that_cover_a_library_leave_nothing_over(make_kinds: Callable[..., Path]) -> None:
    done = label_library(make_kinds(0.6, others=0), TWO, store=False)
    assert done.better and done.none is not None and done.none.videos <= 1


def test_examples_that_are_like_any_clip_are_no_better_than_chance() -> None:
    generator, labels = np.random.default_rng(0), np.repeat([0, 1], 5)
    rows, others = (generator.standard_normal((n, 16)).astype(np.float32) for n in (10, 60))
    rows[:, 0] += np.where(labels == 1, 3, -3)  # told from each other, and between the others
    others[:, 0] = np.where(np.arange(60) % 2, 30, -30)
    examples, videos = Examples(np.arange(10), labels, 100 + np.arange(10)), np.arange(60)

    def chance(others: FloatArray) -> float:
        library = np.concatenate([rows, others])
        return learn_probe(rows, examples, JointSpec({}), library, np.append(examples.videos, videos)).by_chance

    assert chance_of(held_out_scores(rows, examples, others), examples) < 0.05 <= chance(others)
    others[:, 0] = 0
    assert chance(others) < 0.05


def test_three_classes_and_a_fold_without_one() -> None:
    rows = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 1, 2]]
    examples = Examples(np.arange(7), np.array([0, 0, 0, 1, 1, 1, 2]), np.arange(7))
    probe = fit_probe(rows, examples, JointSpec({}))
    assert probe.decisions(rows).argmax(axis=1).tolist() == [0, 0, 0, 1, 1, 1, 2]
    # The one video of the third class is never predicted by the others: 6 of 7 by chance, where 3 of 7 are of a class.
    assert chance_of(held_out_scores(rows, examples, rows), examples) == pytest.approx(binomial_tail(6, 7, 3 / 7))


def test_the_tail_of_a_binomial() -> None:
    assert binomial_tail(0, 5, 0.3) == pytest.approx(1)
    assert binomial_tail(2, 2, 0.25) == pytest.approx(1 / 16)
    assert binomial_tail(3, 4, 0.5) == pytest.approx(5 / 16)
    assert binomial_tail(1, 1, 1.0) == binomial_tail(1, 2000, 1.0) == 1.0
    assert binomial_tail(1000, 2000, 0.5) == pytest.approx(0.509, abs=0.001)  # its coefficients are above any float


def test_wrong_examples_get_a_sentence(kinds: Path) -> None:
    some = ClassSet("letters", (TWO.classes[0], LabelClass("beta")))
    with pytest.raises(UsageError, match=r"'beta' has no examples.*--zero-shot"):
        label_library(kinds, some)
    with pytest.raises(QueryError, match=r"nothing\.mp4 is not in this library"):
        label_library(kinds, ClassSet("l", (LabelClass("a", (), ("nothing.mp4@1",)), TWO.classes[1])))
    both = (LabelClass("a", (), ("sport 1.mp4@1",)), LabelClass("b", (), ("cooking 0.mp4@1", "sport 1.mp4@0:02")))
    with pytest.raises(UsageError, match=r"sport 1\.mp4@0:02, an example of 'b', is the same clip as .*, one of 'a'"):
        label_library(kinds, ClassSet("l", both))
    with pytest.raises(UsageError, match="a clip is a video and a time"):
        label_library(kinds, ClassSet("l", (LabelClass("a", (), ("nothing",)), TWO.classes[1])))


def test_without_scikit_learn_the_extra_is_named(kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(VfindexError, match=r"pip install 'vfindex\[index\]'"):
        label_library(kinds, TWO, store=False)
