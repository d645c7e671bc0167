"""Every command: help, exit codes, one JSON document on standard output, and everything else on standard error."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from vfindex import __version__
from vfindex.cli.app import command_line
from vfindex.cli.commands import ask, demo, ingest, remove, search, show, status, verify
from vfindex.cli.run import _progress
from vfindex.indexer.models.hardware import usable_cores
from vfindex.indexer.models.presets import BEST_DEFAULT, DEFAULT_PRESET, PRESETS
from vfindex.indexer.options import Sampling
from vfindex.indexer.runners.local import default_workers
from vfindex.indexer.runs import ingest as indexer_ingest
from vfindex.indexer.runs.report import Progress, Report
from vfindex.search.engine import SearchEngine
from vfindex.search.query.parser import parse
from vfindex.storage.library import Library
from vfindex.storage.writer import writing

COMMANDS = {module.NAME: module for module in (ingest, search, ask, status, show, remove, verify, demo)}
READING = (("search", "a question"), ("status",), ("show", "/videos/a.mp4"), ("verify",))
HEAVY = {"av", "faiss", "onnxruntime", "PIL", "ray", "rich", "sqlalchemy", "tokenizers", "torch"}


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_one_screen_and_has_an_example(run: Any, name: str) -> None:
    ran = run(name, "--help")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert f"Example:  {COMMANDS[name].EXAMPLE}" in ran.out


def test_the_first_help_names_every_command_in_full(run: Any) -> None:
    ran = run("--help")
    assert ran.code == 0
    shown = [command for command in command_line().commands.values() if not command.hidden]
    assert len(ran.out.splitlines()) == 11 + len(shown), "one line a command"
    assert "..." not in ran.out.replace("[ARGS]...", "")
    for name, module in COMMANDS.items():
        assert f"\n  {name} " in ran.out
        assert f"{(module.command.__doc__ or '').split('.')[0]}." in ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_one_that_its_command_takes(name: str) -> None:
    program, command, *arguments = shlex.split(COMMANDS[name].EXAMPLE)
    assert (program, command) == ("vfindex", name)
    command_line().commands[name].make_context(name, arguments)


@pytest.mark.parametrize("name", command_line().commands)
def test_the_query_of_every_example_is_one(name: str) -> None:
    for argument in shlex.split(import_module(f"vfindex.cli.commands.{name}").EXAMPLE):
        parse(argument, wordless=True)


def test_defaults_in_the_help_are_the_code_s(run: Any) -> None:
    options = " ".join(run("ingest", "--help").out.split())
    assert f"Models: {', '.join(PRESETS)}. [default: {BEST_DEFAULT} if here, else {DEFAULT_PRESET}]" in options
    assert f"or a rate in fps. [default: {Sampling()}]" in options
    assert "[default: cores + 1]" in options
    assert default_workers() == usable_cores() + 1
    options = run("search", "--help").out
    engine = inspect.signature(SearchEngine.search).parameters
    assert f"[default: {engine['top_k'].default};" in options
    assert f"[default: {engine['per_video'].default};" in options


def test_help_imports_nothing_heavy(python: Any) -> None:
    code = f"""
import sys
from vfindex.cli.app import main
for words in {[[], *([name] for name in COMMANDS)]!r}:
    sys.argv = ["vfindex", *words, "--help"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
print(*sys.modules, file=sys.stderr)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert not {name.split(".")[0] for name in done.stderr.split()} & HEAVY


def test_version(run: Any) -> None:
    assert run("--version").out == f"vfindex {__version__}\n"


# --- exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [*READING, ("remove", "/videos/a.mp4")])
def test_all_went_well_is_0(run: Any, library: Path, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments, "--library", library)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out


@pytest.mark.parametrize("arguments", [*READING, ("remove", "/videos/a.mp4")])
def test_no_library_is_a_sentence_and_1(run: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments, "--library", tmp_path / "nothing")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("vfindex: there is no library in ")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "/videos/\x1b[31mc.mp4"), "/videos/\\x1b[31mc.mp4 is not in this library"),
        (("show", "/videos/no such.mp4"), "no such.mp4 is not in this library, and there is no such file"),
        (("show", "/"), "/ is a folder; name one of its videos"),
        (("remove", "/videos/c.mp4"), "/videos/c.mp4 is not in this library"),
        (("search", " "), "the query is empty"),
    ],
)
def test_an_impossible_command_is_a_sentence_and_1(
    run: Any, library: Path, arguments: tuple[str, ...], words: str
) -> None:
    ran = run(*arguments, "--library", library)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_a_file_that_was_not_indexed_can_be(run: Any, library: Path, tmp_path: Path) -> None:
    file = tmp_path / "two words.mp4"
    file.touch()
    ran = run("show", file, "--library", library)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith(f"vfindex ingest --library {library} '{file}'\n")


def test_a_retry_of_paths_without_failed_files_says_so(run: Any, library: Path) -> None:
    ran = run("retry", "/videos/nope.mp4", "--library", library)
    assert ran.err.startswith("nothing to retry at or below these paths; ")
    assert "name a failed file" in (said := run("retry", "--library", library).err)
    assert said.endswith("; every run tries what cannot be opened\n")


def test_a_second_writer_is_refused(run: Any, library: Path) -> None:
    with writing(library):
        for arguments in (("remove", "/videos/a.mp4"), ("ingest", library)):
            ran = run(*arguments, "--library", library)
            assert ran.code == 1
            assert "another vfindex is writing to the library" in ran.err
        assert run("search", "a question", "--library", library).code == 0


def test_a_damaged_library_is_named_by_verify_and_1(run: Any, library: Path) -> None:
    [index] = (library / "index").iterdir()
    index.write_bytes(b"\0" * index.stat().st_size)
    ran = run("verify", "--library", library, "--json")
    document = json.loads(ran.out)
    assert (ran.code, document["clean"]) == (1, False)
    assert index.name in document["problems"][0]
    assert index.name in run("verify", "--library", library).err


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--bogus"),
        ("bogus",),
        ("search",),
        ("search", "x", "-k", "0"),
        ("search", "x", "--weight", "sound=1"),
        ("ingest", ".", "--workers", "none"),
        ("ingest", ".", "--sampling", "often"),
        ("ingest", ".", "--preset", "huge"),
    ],
)
def test_wrong_usage_is_2(run: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    library = () if arguments[0] == "bogus" else ("--library", tmp_path)
    ran = run(*arguments, *library)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    ran = run(*arguments, *library, "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["error"]["kind"] == "UsageError"


def test_another_preset_or_sampling_than_the_library_s_is_2(run: Any, library: Path, tmp_path: Path) -> None:
    ran = run("ingest", tmp_path, "--sampling", "2", "--library", library)
    assert ran.code == 2
    assert "was made with --sampling auto, not 2" in ran.err


def test_a_bug_shows_its_traceback_and_is_70(run: Any, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "snapshot", lambda self: 1 / 0)
    ran = run("status", "--library", library)
    assert (ran.code, ran.out) == (70, "")
    assert "Traceback" in ran.err and "ZeroDivisionError" in ran.err
    assert "this is a bug of vfindex" in ran.err


def test_an_interruption_is_130(run: Any, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(_: Library) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Library, "snapshot", press)
    ran = run("status", "--library", library)
    assert ran.code == 130
    assert "Traceback" not in ran.err


def test_debugging_adds_the_traceback(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFINDEX_DEBUG", "1")
    ran = run("status", "--library", tmp_path)
    assert ran.code == 1
    assert "Traceback" in ran.err and "LibraryNotFound" in ran.err


# --- standard output and standard error -----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [*READING, ("remove", "/videos/a.mp4")])
def test_json_is_the_one_document_on_standard_output(run: Any, library: Path, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments, "--library", library, "--json")
    assert isinstance(json.loads(ran.out), dict)
    assert ran.err == ""


def test_an_error_is_the_one_document_too(run: Any, tmp_path: Path) -> None:
    ran = run("status", "--json", "--library", tmp_path)
    error = json.loads(ran.out)["error"]
    assert error["kind"] == "LibraryNotFound"
    assert ran.err == f"vfindex: {error['message']}\n"


def test_words_after_two_dashes_are_not_options(run: Any, library: Path) -> None:
    assert run("search", "--library", library / "nothing", "--", "--json").out == ""
    assert run("search", "--library", library, "--json", "--", "-5 degrees").code == 0


def test_paths_that_are_not_utf8_come_through_json(run: Any, hostile: Any) -> None:
    document = json.loads(run("search", "hello", "--library", hostile.folder, "--json").out)
    assert {os.fsencode(hit["video"]) for hit in document["hits"]} == set(hostile.paths())
    for path in hostile.paths():
        ran = run("show", os.fsdecode(path), "--library", hostile.folder, "--json")
        assert os.fsencode(json.loads(ran.out)["video"]) == path


def test_status_tells_of_a_library_that_is_still_empty(run: Any, tmp_path: Path) -> None:
    with writing(tmp_path):
        pass
    ran = run("status", "--library", tmp_path)
    assert ran.code == 0
    assert "None" not in ran.out
    document = json.loads(run("status", "--library", tmp_path, "--json").out)
    assert (document["preset"], document["generation"], document["videos"]) == (None, None, 0)
    assert "holds no videos yet" in run("search", "x", "--library", tmp_path).err


def test_into_a_pipe_goes_one_line_a_hit(run: Any, hostile: Any) -> None:
    ran = run("search", "hello", "--library", hostile.folder)
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert [row[0] for row in rows] == [str(n) for n in range(1, len(hostile.names) + 1)]
    assert {len(row) for row in rows} == {4}
    assert "\x1b" not in ran.out


def test_a_terminal_without_utf_8_gets_escapes(python: Any, tmp_path: Path) -> None:
    code = "import sys; sys.argv[1:] = ['status']; from vfindex.cli.app import main; main()"
    with writing(tmp_path / "日本"):
        pass
    done = python(code, PYTHONIOENCODING="ascii", VFINDEX_LIBRARY=str(tmp_path / "日本"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u65e5\\u672c" in done.stdout


def test_the_library_can_be_named_in_the_environment(
    run: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    assert json.loads(run("status", "--json").out)["library"] == str(library)
    assert run("status", "--library", tmp_path / "nothing").code == 1, "the option goes first"


# --- ingest ---------------------------------------------------------------------------------------------------------


def test_files_that_are_not_videos_are_counted_by_kind(run: Any, library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in (b"picture.png", b"sound.mp3", b"list.m3u8", b"notes.txt", b"bare"):
        (folder / os.fsdecode(name)).write_bytes(b"x")
    os.mkfifo(folder / "pipe.mp4")
    missing = folder / os.fsdecode(b"\x1b[31m\xff.mp4")
    ran = run("ingest", folder, missing, "--library", library, "--json")
    report = json.loads(ran.out)
    assert ran.code == 1, "what was named and cannot be indexed has failed"
    lists = [report[name] for name in ("partial", "failed", "skipped")]
    assert [len(each) for each in lists] == [0, 2, 4]
    counts = sum(report[name] for name in ("indexed", "unchanged", "moved")) + sum(map(len, lists))
    assert report["found"] == counts == 6
    assert set(report) == set(Report().to_dict(os.fsdecode))
    for problem in report["failed"] + report["skipped"]:
        assert set(problem) == {"path", "stage", "code", "reason", "next"}
        assert all(problem.values())
    assert os.fsencode(missing) in {os.fsencode(problem["path"]) for problem in report["failed"]}
    ran = run("ingest", folder, missing, "--library", library)
    assert ran.out.startswith("6 found: 0 indexed, 0 unchanged, 0 moved, 0 partial, 2 failed, 4 skipped\n")
    assert len(ran.err.splitlines()) == 6 and "\x1b" not in ran.err


def test_an_address_is_to_be_downloaded(run: Any, library: Path) -> None:
    ran = run("ingest", "https://example.org/a.mp4", "--library", library)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("vfindex: https://example.org/a.mp4 is an address; download the video")


def test_a_misspelt_path_makes_no_library(run: Any, tmp_path: Path) -> None:
    ran = run("ingest", tmp_path / "misspelt", "--library", tmp_path / "library")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith("misspelt: there is no such file or folder; check the spelling and the mount\n")
    assert not (tmp_path / "library").exists()


def test_an_empty_folder_is_said_to_be_empty(run: Any, library: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = run("ingest", tmp_path / "empty", "--library", library)
    assert (ran.code, ran.out.split(":")[0]) == (0, "0 found")
    assert "no videos found" in ran.err


def test_ctrl_c_ends_after_the_units_in_work(
    run: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Any, __: Any, ___: Any, callbacks: Any, *, name: str) -> Report:
        assert not callbacks.stop()
        os.kill(os.getpid(), signal.SIGINT)
        return Report(found=1, indexed=1, interrupted=callbacks.stop())

    monkeypatch.setattr(indexer_ingest, "ingest", interrupted)
    before = signal.getsignal(signal.SIGINT)
    ran = run("ingest", tmp_path, "--library", library)
    assert ran.code == 130
    assert "run the same command again to continue" in ran.out
    assert "stopping after the videos in progress" in ran.err
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_is_quiet_where_no_terminal_looks_on(capsys: pytest.CaptureFixture[str]) -> None:
    with _progress() as tell:
        tell(Progress(1, 2, 30.0, 60.0))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_is_drawn_on_standard_error_alone() -> None:
    drawn = drawn_by("tell(Progress(1, 4, 90.0, 360.0))")
    assert "1/4 files" in drawn and "1:30 of video" in drawn and "left" in drawn


def test_files_that_failed_at_once_tell_nothing_of_the_time_left() -> None:
    drawn = drawn_by("tell(Progress(1, 4, 0.0, 360.0))")
    assert "1/4 files" in drawn and "left" not in drawn and "0.0x" not in drawn


def drawn_by(code: str) -> str:
    """Return what a terminal of 80 columns gets while `code` reports progress."""
    code = (
        "import time\nfrom vfindex.cli.run import _progress\n"
        "from vfindex.indexer.runs.report import Progress\n"
        f"with _progress() as tell: time.sleep(0.3); {code}; time.sleep(0.3)"
    )
    ours, theirs = os.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=env, timeout=60)
    os.close(theirs)
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, b"")
    return drawn


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("search", "dog", "--top-k", "0"), "'-k' / '--top-k': give a whole number from 1 to 1000"),
        (("search", "dog", "-k", "two"), "'-k' / '--top-k': give a whole number from 1 to 1000"),
        (("search", "dog", "--per-video", "-1"), "'--per-video': give a whole number of at least 1"),
        (("tune", "queries", "--folds", "21"), "'--folds': give a whole number from 2 to 20"),
        (("verify", "--sample", "-1"), "'--sample': give a whole number of at least 0"),
        (("reindex", "--max-hours", "-1"), "'--max-hours': give a number of at least 0"),
        (("reindex", "--nice", "20"), "'--nice': give a whole number from 0 to 19"),
        (("ingest", "videos", "--workers", "0"), "'--workers': give a whole number of at least 1"),
        (("models", "pull", "lite", "--timeout", "0"), "'--timeout': give a number of at least 1"),
        (
            ("search", "dog", "--min-confidence", "great"),
            "'--min-confidence': 'great' is not one of 'none', 'low', 'medium', 'high'.",
        ),
        (("rebuild", "--fusion", "foo"), "'--fusion': 'foo' is not one of 'concat', 'mean', 'weighted', 'learned'."),
        (
            ("rebuild", "--index", "qdrant:/path", "--library", "."),
            "--index takes built-in or qdrant:URL, as in qdrant:https://host:6333, not 'qdrant:/path'",
        ),
    ],
)
def test_a_wrong_value_is_told_the_right_ones(run: Any, arguments: tuple[str, ...], sentence: str) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    said = " ".join(ran.err.split())
    assert said.endswith((f"Error: Invalid value for {sentence}", f"vfindex: {sentence}"))


def test_the_folder_of_a_backup_is_absolute(
    run: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert json.loads(run("backup", "copy", "--json", "--library", library).out)["folder"] == str(tmp_path / "copy")
