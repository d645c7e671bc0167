"""Rebuilt indexes: with another fusion, after damage, from library.db alone, without any video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, add_video, axis, clip, install
from sqlalchemy import text

from vfindex.search.engine import SearchEngine
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.errors import LibraryNotFound, UsageError
from vfindex.storage.joint.fusion import Fusion, Heads
from vfindex.storage.library import Library
from vfindex.storage.maintenance.rebuild import adopt, rebuild
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.modalities import ModalityName, modality_names
from vfindex.storage.records import FUSIONS, FusionName, Segment
from vfindex.storage.writer import writing

MODALITIES: tuple[ModalityName, ...] = ("visual", "speech", "text")  # those of `install`


@pytest.fixture(autouse=True)
def questions_are_axis_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {m: axis(1) for m in modality_names()})


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a library of a video that shows what is asked, one that says it, and one that does neither."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        add_video(writer, "seen", [clip(visual=axis(1))])
        add_video(writer, "said", [clip(visual=axis(2), speech=axis(1))], [Segment(0, 5, "a nightingale", "asr")])
        add_video(writer, "other", [clip(visual=axis(3), speech=axis(4))])
        writer.publish()
    return folder


def heads() -> Heads:
    """Return heads that let what is asked of pictures find what is said, and nothing else."""
    none = np.zeros((2, DIM), np.float32)
    clip_ = {m: 10 * np.eye(2, DIM, 0, np.float32) if m == "speech" else none for m in MODALITIES}
    query = {m: 10 * np.eye(2, DIM, 0, np.float32) if m == "visual" else none for m in MODALITIES}
    return Heads(clip_, query)


def found(folder: Path, question: str = "x") -> list[str]:
    hits = SearchEngine.open(folder).search(question)
    return [Path((hit.video or b"").decode()).name for hit in hits]


@pytest.mark.parametrize("form", ["concat", "mean", "weighted"])
def test_a_library_answers_in_every_form(library: Path, form: FusionName) -> None:
    done = rebuild(library, form)
    assert (done.fusion, done.clips, done.documents) == (form, 3, 1)
    assert done.dimensions == (3 * DIM if form == "concat" else DIM)
    assert set(found(library)[:2]) == {"seen", "said"}
    assert verify(Library.open(library)).clean
    with writing(library) as writer:  # a run that finds new videos goes on in the same form
        add_video(writer, "new", [clip(visual=axis(1), speech=axis(1))])
        assert "new" in found(library)[:2]
        assert writer.publish().spec.fusion == form
    assert "new" in found(library)[:2]


def test_contributions_sum_to_the_score_in_every_form(library: Path) -> None:
    for form in FUSIONS:
        adopt(library, Fusion(form, {}, heads() if form == "learned" else None))
        for hit in SearchEngine.open(library).search("x"):
            assert hit.score == pytest.approx(sum(value for value in hit.modalities.values() if value is not None))


def test_learned_heads_find_what_the_modalities_alone_do_not(library: Path) -> None:
    assert found(library)[0] == "seen"
    adopt(library, Fusion("learned", {}, heads()))
    assert found(library)[0] == "said"
    assert rebuild(library).fusion == "learned"
    assert found(library)[0] == "said"
    assert rebuild(library, "concat").fusion == "concat"
    assert found(library)[0] == "seen"


@pytest.mark.parametrize("form", ["mean", "weighted", "learned"])
def test_fixed_weights_cannot_be_changed_by_a_question(library: Path, form: FusionName) -> None:
    adopt(library, Fusion(form, {}, heads() if form == "learned" else None))
    with pytest.raises(UsageError, match=f"fused as {form}.*vfindex rebuild --fusion concat"):
        SearchEngine.open(library).search("x", weights={"speech": 0.0})
    assert found(library, "said:x") == []  # but a question may ask one modality


def test_a_form_is_tried_without_being_stored(library: Path) -> None:
    tried = SearchEngine.open(library, Fusion("learned", {}, heads())).search("x")
    assert tried[0].video == b"/videos/said"
    assert found(library)[0] == "seen"


def test_weights_of_concat_need_no_new_index(library: Path) -> None:
    engine = SearchEngine.open(library)
    files = sorted(path.name for path in (library / "index").iterdir())
    adopt(library, Fusion("concat", {"visual": 0.1, "speech": 1.0}))
    assert sorted(path.name for path in (library / "index").iterdir()) == files
    assert engine.search("x")[0].video == b"/videos/said"
    rebuild(library)
    assert found(library)[0] == "said"
    fusion = adopt(library, None)
    assert fusion.weights == {"visual": 1.0, "speech": 0.5, "text": 0.5}
    assert found(library)[0] == "seen"


def test_nothing_was_learned_that_could_be_built(library: Path) -> None:
    with pytest.raises(UsageError, match="vfindex tune"):
        rebuild(library, "learned")
    assert found(library)[0] == "seen"


def test_recognised_words_are_returned(library: Path) -> None:
    damage(library, "INSERT INTO document_fts(document_fts) VALUES ('delete-all')")
    assert found(library, '"nightingale"') == []
    rebuild(library)
    assert found(library, '"nightingale"') == ["said"]


def test_an_unreadable_spec_is_rebuilt(library: Path) -> None:
    damage(library, "UPDATE generation SET spec = '{}'")
    rebuild(library)
    assert found(library)[0] == "seen"
    damage(library, "UPDATE meta SET value = 'x' WHERE key = 'fusion'")
    assert rebuild(library, "concat").fusion == "concat"


def test_files_of_the_index_may_be_gone(library: Path) -> None:
    for path in (library / "index").iterdir():
        path.unlink()
    rebuild(library)
    assert verify(Library.open(library)).clean


def test_no_library_no_index(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound, match="no library"):
        rebuild(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def damage(folder: Path, statement: str) -> None:
    with writing(folder) as writer, writer.catalog.transaction() as connection:
        connection.execute(text(statement))


def test_the_commands(library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: Any) -> tuple[Any, str, str]:
        from vfindex.cli.app import main

        monkeypatch.setattr("sys.argv", ["vfindex", *map(str, arguments), "--library", str(library)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    assert run("rebuild", "--fusion", "mean") == (
        0,
        f"index of 3 clips as mean, {DIM} dimensions; full text of 1 line\n",
        "",
    )
    code, _, err = run("search", "x", "--weight", "speech=0")
    assert (code, f"vfindex rebuild --library {library} --fusion concat" in err) == (2, True)
    assert run("rebuild", "--fusion", "sum")[0] == 2
    assert run("tune", "--reset") == (0, "concat, visual 1, speech 0.5, text 0.5, the preset's weights\n", "")
