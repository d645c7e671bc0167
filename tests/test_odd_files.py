"""Pipes, links and empty names in place of files, and missing homes: one sentence, and no blocking."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND, obey_modes, vfindex
from library_maker import add_video, axis, clip, install
from media import Shot, make_video

from vfindex.cli.out_file import PNG
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.storage.files.regular import read_file
from vfindex.storage.index.reader import SEGMENT_SUFFIX
from vfindex.storage.writer import writing


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Path:
    """Return a folder with a library of one video and the video."""
    folder = tmp_path_factory.mktemp("made")
    make_video(folder / "one.mp4", shots=[Shot("red", 1)])
    settings = RunSettings(cache=models_cache, workers=1, asr=False)
    ingest(folder / "lib", [os.fsencode(folder / "one.mp4")], settings)
    return folder


@pytest.fixture
def library(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "lib", tmp_path / "lib"))


def test_special_files_never_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "socket", "link", "."):
        with pytest.raises(OSError, match=r"it is (a|no)"):
            read_file(tmp_path / name)
    with pytest.raises(OSError, match="a device"):
        read_file(Path("/dev/zero"))
    (tmp_path / "file").write_bytes(b"text")
    assert read_file(tmp_path / "file") == b"text"
    listener.close()


@pytest.mark.parametrize("name", ["current", "library.db", "library.db-wal", "library.json", "index", "meta.json"])
def test_a_pipe_in_a_library_never_blocks(library: Path, models_cache: Path, name: str) -> None:
    path = {
        "index": next((library / "index").iterdir()),
        "meta.json": next(library.glob("query/*/meta.json")),
    }.get(name, library / name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for command in (("search", "red"), ("status",), ("verify",), ("ingest", library.parent)):
        ran = vfindex(models_cache, *command, "--library", library)
        assert "Traceback" not in ran.err
        if name in ("current", "library.db", "library.db-wal"):
            assert ran.is_sentence() and path.name in ran.err, command


@pytest.mark.parametrize("name", ["index", "query", "query/*", "query/*/model.onnx.data", "thumbs", "thumbs/*"])
def test_a_missing_right_is_no_damage(library: Path, models_cache: Path, name: str) -> None:
    """Without the right to a query encoder, `repair` ended as a bug, and searches called it damaged."""
    [closed] = library.glob(name)
    before = sorted(library.rglob("*"))
    is_used = not name.startswith("thumbs")  # thumbnails do not matter to searches
    closed.chmod(0)
    try:
        for command in ("search red", *(["verify"] if is_used else []), "repair"):
            ran = vfindex(models_cache, *command.split(), "--library", library, prepare=obey_modes)
            if command == "search red" and not is_used:
                assert (ran.code, ran.err) == (0, "")
                continue
            assert ran.is_sentence() and str(closed) in ran.err and "permission" in ran.err, (command, ran.err)
            assert not any(word in ran.err for word in ("repair", "remove", "damaged", "space", "room")), ran.err
    finally:
        closed.chmod(0o755 if closed.is_dir() else 0o644)
    assert sorted(library.rglob("*")) == before
    assert vfindex(models_cache, "verify", "--library", library).code == 0


def test_a_folder_where_repair_writes_is_named(library: Path, models_cache: Path) -> None:
    (library / "library.db").unlink()
    (library / "library.db.repaired").mkdir()
    ran = vfindex(models_cache, "repair", "--library", library)
    assert ran.is_sentence()
    assert f": {library / 'library.db.repaired'} is in the way (Is a directory); move it away and run" in ran.err
    (library / "library.db.repaired").rmdir()
    assert vfindex(models_cache, "repair", "--library", library).code == 0


def test_a_folder_in_place_of_a_file_is_named(library: Path, models_cache: Path) -> None:
    for name, sentence in (
        ("lock", f"(Is a directory); move {library / 'lock'} away\n"),
        ("current", f"{library / 'current'} cannot be read (it is a folder, no file); move it away\n"),
        ("library.db", f"{library / 'library.db'} is no file; move it away, or use another --library\n"),
    ):
        for path in library.glob(f"{name}*"):
            path.unlink()
        (library / name).mkdir()
        for command in (("ingest", library.parent), ("rebuild",), ("repair",)):
            ran = vfindex(models_cache, *command, "--library", library)
            assert ran.is_sentence() and ran.err.endswith(sentence), (command, ran.err)
        (library / name).rmdir()
    assert vfindex(models_cache, "repair", "--library", library).code == 0


def test_a_folder_beside_the_index_fails_no_publication(library: Path, models_cache: Path) -> None:
    (library / "index" / "old").mkdir()
    for command in ("rebuild", "rebuild", "verify"):
        assert vfindex(models_cache, command, "--library", library).code == 0
    assert (library / "index" / "old").is_dir()


def test_a_folder_that_may_not_be_written_is_named(library: Path, models_cache: Path) -> None:
    (library / "index").chmod(0o555)
    for command in ("rebuild", "repair"):
        ran = vfindex(models_cache, command, "--library", library, prepare=obey_modes)
        if command == "repair":
            assert ran.code == 0
            continue
        assert ran.is_sentence() and "space" not in ran.err
        assert f"this user needs permission to write {library / 'index'}" in ran.err


def test_a_pipe_in_place_of_an_output_file_never_blocks(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a.mp4", [clip(visual=axis(0))])
        for name in ("library.json.part", f"index/{1:08d}{SEGMENT_SUFFIX}.part"):
            os.mkfifo(tmp_path / name)
        assert writer.publish().clips == 1
    assert [path.name for path in tmp_path.rglob("*.part")] == []


def test_a_pipe_as_an_argument_never_blocks(library: Path, models_cache: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for command in (
        ("search", "--image", tmp_path / "pipe"),
        ("search", "red", "--sheet", tmp_path / "pipe"),
        ("runs", "show", "1", "--page", tmp_path / "pipe"),
        ("eval", tmp_path / "pipe"),
        ("tune", tmp_path / "pipe"),
        ("ingest", tmp_path / "pipe"),
    ):
        ran = vfindex(models_cache, *command, "--library", library)
        assert ran.code in (1, 2) and "Traceback" not in ran.err, command
        assert "pipe" in ran.err


def test_an_empty_path_is_not_the_working_folder(library: Path, models_cache: Path, tmp_path: Path) -> None:
    for command in (("ingest", ""), ("retry", ""), ("remove", ""), ("show", "")):
        ran = vfindex(models_cache, *command, "--library", library, cwd=tmp_path)
        assert (ran.code, ran.err) == (
            2,
            "vfindex: a path is empty; name a file or a folder, or . for the working folder\n",
        )


def test_a_written_file_replaces_nothing_else(library: Path, models_cache: Path, tmp_path: Path) -> None:
    notes, link, sheet = tmp_path / "notes.txt", tmp_path / "link.png", tmp_path / "sheet.png"
    notes.write_text("dear diary")
    link.symlink_to(notes)
    before = (library / "library.db").read_bytes()

    def search(path: Path, *more: str) -> tuple[int, str]:
        ran = vfindex(models_cache, "search", "red", "--sheet", path, *more, "--library", library, "--json")
        return ran.code, ran.err

    assert search(sheet) == (0, "") and sheet.read_bytes().startswith(PNG)
    assert search(sheet) == (0, ""), "a picture made before is replaced"
    for path, words in (
        (notes, "of another kind"),
        (link, "a symbolic link"),
        (library / "library.db", "inside the library"),
        (library / "thumbs" / "new.png", "inside the library"),
    ):
        code, err = search(path)
        assert code == 2 and words in err and err.count("\n") == 1
        code, _ = search(path, "--force")
        assert code == (0 if path == notes else 2)
    code, err = search(tmp_path / "hits.jpg")
    assert code == 2 and "--sheet writes image/png, not image/jpeg; name a file that ends in .png" in err
    assert search(tmp_path / "hits.2026-11") == (0, "")
    (tmp_path / "hits.2026-11").unlink()
    assert notes.read_bytes().startswith(PNG)
    assert (library / "library.db").read_bytes() == before
    page = tmp_path / "page.html"
    for _ in range(2):
        ran = vfindex(models_cache, "runs", "show", "1", "--page", page, "--library", library)
        assert ran.code == 0 and page.read_text().startswith("<!doctype html>")
    ran = vfindex(models_cache, "runs", "show", "1", "--page", sheet, "--library", library)
    assert ran.code == 2 and "--force" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lib",
        "link.png",
        "notes.txt",
        "page.html",
        "sheet.png",
    ]


def test_a_name_that_is_too_long_is_a_sentence(tmp_path: Path, made: Path, models_cache: Path) -> None:
    name = tmp_path / ("x" * 256)
    for command in (("status",), ("search", "red"), ("ingest", tmp_path), ("doctor",)):
        ran = vfindex(models_cache, *command, "--library", name)
        assert ran.is_sentence(), ran.err
    for command in (("search", "red", "--sheet", name), ("purge", "--report", name), ("models", "add", name)):
        ran = vfindex(models_cache, *command, *(() if command[0] == "models" else ("--library", made / "lib")))
        assert ran.is_sentence() and "too long" in ran.err, ran.err


# --- homes ----------------------------------------------------------------------------------------------------------

# Run first by Python: a user id without an entry.
NOBODY = "import pwd\ndef unknown(*_): raise KeyError('uid not found')\npwd.getpwuid = pwd.getpwnam = unknown\n"


@pytest.mark.parametrize("home", [None, "file"])
def test_without_a_home(made: Path, tmp_path: Path, home: str | None) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(NOBODY)
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(tmp_path / "first")}
    environment |= {"HOME": str(tmp_path / home)} if home else {}

    def run(*arguments: object) -> tuple[int, str, str]:
        command = [*COMMAND, *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=230, text=True)
        return done.returncode, done.stdout, done.stderr

    for command in (("status",), ("search", "red"), ("ingest", made)):
        code, out, err = run(*command)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert all(word in err for word in ("HOME", "--library", "VFINDEX_CACHE"))
    code, out, err = run("search", "red", "--library", made / "lib")
    assert code == 0 and "one.mp4" in out, err
    code, out, err = run("ingest", made / "one.mp4", "--library", made / "lib", "--no-asr")
    assert code == 0 and "1 unchanged" in out, err
    own = tmp_path / "tmp" / f"vfindex-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)  # anyone could have put models there
    code, out, err = run("models", "list")
    assert code == 1 and "VFINDEX_CACHE" in err
