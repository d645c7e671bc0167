"""A temporal head tells pans to the left and right apart, which means of frames do not; stored, used, refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from panning import DIRECTIONS, fixed_encoder, pan_library

from vfindex.cli.app import main
from vfindex.search.evaluation.labelled_videos import LabelledVideo, read_labelled
from vfindex.search.evaluation.temporal import TemporalChoice, forget_temporal, tune_temporal
from vfindex.search.understanding.labelling.classes import ClassSet, LabelClass, read_classes
from vfindex.search.understanding.labelling.label import label_library
from vfindex.storage.errors import LibraryDamaged, QueryError, UsageError
from vfindex.storage.heads import FOLDER, TemporalHead, put_head, read_head, shapes_of, stored_head
from vfindex.storage.library import Library
from vfindex.storage.maintenance.backup import back_up
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing

pytest.importorskip("torch", reason="torch trains temporal heads: pip install 'vfindex[index]'")
pytest.importorskip("sklearn", reason="scikit-learn fits the probe: pip install 'vfindex[index]'")
SIDE_PX, VIDEOS = 32, 80


@pytest.fixture(scope="module")
def pans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pan_library(tmp_path_factory.mktemp("pans") / "library", VIDEOS, fixed_encoder(SIDE_PX), SIDE_PX)


@pytest.fixture(scope="module")
def tuned(pans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Return a library with a head, its file of classes, and what the command said."""
    folder = tmp_path_factory.mktemp("tuned")
    library = Path(shutil.copytree(pans, folder / "library"))
    classes = folder / "pans.json"
    examples = [[f"{name} {n}.mp4@5" for n in range(VIDEOS) if DIRECTIONS[n % 2] == name] for name in DIRECTIONS]
    kinds = [{"name": name, "examples": of} for name, of in zip(DIRECTIONS, examples, strict=True)]
    classes.write_text(json.dumps({"name": "pans", "classes": kinds}))
    from vfindex.indexer.models import temporal

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(temporal, "EPOCHS", 40)
        with (folder / "out.json").open("w") as out:
            patch.setattr(sys, "stdout", out)
            assert command(patch, "tune", classes, "--temporal", "--folds", 2, "--library", library, "--json") == 0
    return library, classes, json.loads((folder / "out.json").read_text())


@pytest.fixture
def own(tuned: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> tuple[Path, ClassSet]:
    """Return a copy that a test may write to, and the classes."""
    return Path(shutil.copytree(tuned[0], tmp_path / "own")), read_classes(tuned[1])


def command(patch: pytest.MonkeyPatch, *arguments: object) -> int:
    patch.setattr(sys, "argv", ["vfindex", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def constant(_: Sequence[FloatArray], __: NDArray[np.int64], classes: int, ___: object) -> dict[str, FloatArray]:
    """Return a head that names the first class always."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes_of(32, classes).items()}
    weights["spread"] += 1
    weights["classify.bias"][0] = 1
    return weights


def test_the_head_tells_what_means_do_not(tuned: tuple[Path, Path, dict[str, Any]]) -> None:
    library, classes, said = tuned
    assert said["after"]["value"] > 0.9 and said["before"]["value"] < 0.65
    assert said["difference"]["low"] > 0 and said["wins"] and said["stored"] and said["chance"] < 0.001
    assert (said["classes"], said["clips"], said["videos"]) == ("pans", VIDEOS, VIDEOS)
    done = label_library(library, read_classes(classes), store=False)
    assert done.method == "temporal head" and done.better
    names = [(each.video or b"").decode().rsplit("/", 1)[-1].split()[0] for each in done.videos]
    assert np.mean([each.label == name for each, name in zip(done.videos, names, strict=True)]) > 0.9
    assert label_library(library, read_classes(classes), store=False, by_text=False).chance < 0.001


def test_a_backup_has_the_head_and_verify_reads_it(own: tuple[Path, ClassSet], tmp_path: Path) -> None:
    library, _ = own
    copy = Library(back_up(library, tmp_path / "copy").folder)
    with copy.snapshot() as snapshot:
        head = stored_head(snapshot, copy.folder, "pans")
    assert head is not None and head.classes == DIRECTIONS
    [path] = (library / FOLDER).iterdir()
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    [problem] = [each for each in verify(Library(library)).problems if "temporal head" in each]
    assert "it is not the file that was put there" in problem


def test_a_head_that_cannot_be_used_is_one_sentence(own: tuple[Path, ClassSet]) -> None:
    library, classes = own
    with pytest.raises(UsageError, match="was trained on other classes than these"):
        label_library(library, ClassSet("pans", (*classes.classes, LabelClass("up"))))
    opened = Library(library)
    with opened.snapshot() as snapshot:
        head = stored_head(snapshot, library, "pans")
    assert head is not None
    with writing(library) as writer:
        put_head(writer.catalog, library, "pans", TemporalHead(head.classes, "another", head.weights, 0.0, 2.0))
    with pytest.raises(UsageError, match=r"trained on frames of another model; .*--temporal"):
        label_library(library, classes)
    [path] = (library / FOLDER).iterdir()  # the one before is gone
    path.unlink()
    with pytest.raises(LibraryDamaged, match=r"No such file or directory; .*--reset"):
        label_library(library, classes)
    assert forget_temporal(library, "pans") and not forget_temporal(library, "pans")
    assert label_library(library, classes).method == "linear probe"


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}", (9).to_bytes(8, "little") + b'{"mean":1}', b"[" * 5000],
)
def test_hostile_files_are_no_heads(tmp_path: Path, data: bytes) -> None:
    from hashlib import sha256

    digest = sha256(data).hexdigest()
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / f"{digest}.safetensors").write_bytes(data)
    with pytest.raises(LibraryDamaged, match="cannot be used"):
        read_head(tmp_path, digest)
    with pytest.raises(LibraryDamaged, match="cannot be"):
        read_head(tmp_path, "../../etc/passwd")


def test_a_head_that_does_not_win_is_not_stored(pans: Path) -> None:
    labelled = [LabelledVideo(f"{DIRECTIONS[n % 2]} {n}", DIRECTIONS[n % 2]) for n in range(40)]
    classes = ClassSet("pans", tuple(LabelClass(name) for name in DIRECTIONS))
    seen: list[tuple[int, int]] = []

    def train(*data: Any) -> dict[str, FloatArray]:
        data[3](1, 2)
        return constant(*data)

    choice = TemporalChoice(labelled, folds=2)
    done = tune_temporal(pans, classes, train, choice, lambda done, total: seen.append((done, total)))
    assert (done.wins, done.stored, done.videos, done.after.value) == (False, False, 40, 0.5)
    assert seen == [(50, 300), (150, 300)]
    with Library(pans).snapshot() as snapshot:
        assert stored_head(snapshot, pans, "pans") is None
    with pytest.raises(UsageError, match=r"'up' has clips with frames of fewer than two videos"):
        tune_temporal(pans, ClassSet("p", (*classes.classes, LabelClass("up"))), constant, choice)
    with pytest.raises(QueryError, match="no video of the list"):
        tune_temporal(pans, classes, constant, TemporalChoice([LabelledVideo("gone", "left")]))
    with pytest.raises(UsageError, match="reads vectors of frames"):
        tune_temporal(pans, ClassSet("p", classes.classes, ("speech",)), constant, choice)


def test_sources_of_videos_and_lists_to_train_on(tmp_path: Path) -> None:
    assert LabelledVideo("v_ApplyEyeMakeup_g08_c01", "apply eye makeup").source == "v_ApplyEyeMakeup_g08"
    assert LabelledVideo("April_09_brush_hair_u_nm_np1_ba_goo_1", "brush hair").source == "April_09"
    assert LabelledVideo("beach", "sea").source == "beach"
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    (tmp_path / "wave_test_split1.txt").write_text("a_wave_1.avi 1\nb_wave_1.avi 2\nc_wave_1.avi 0\n")
    assert [each.stem for each in read_labelled(tmp_path, part="train")] == ["v_Archery_g08_c01"]
    (tmp_path / "testlist01.txt").unlink()
    (tmp_path / "trainlist01.txt").unlink()
    assert [each.stem for each in read_labelled(tmp_path, part="train")] == ["a_wave_1"]


def test_the_command_and_its_wrong_uses(
    own: tuple[Path, ClassSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library, _ = own
    (tmp_path / "pans.txt").write_text("left\nright\n")
    arguments = ("tune", tmp_path / "pans.txt", "--library", library)
    assert command(monkeypatch, *arguments, "--temporal", "--reset", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"classes": "pans", "removed": True}
    many = ("--temporal", "--clips", "x", "--split", 5000 * "9")
    for wrong in (("--clips", "x"), ("--temporal", "--reset", "--dry-run"), ("--temporal", "--split", "1"), many):
        assert command(monkeypatch, *arguments, *wrong) == 2
    assert command(monkeypatch, *arguments, "--temporal") == 2  # no examples and no list
    said = capsys.readouterr().err
    assert "no class of pans has examples" in said and "--clips" in said and "--zero-shot" not in said
