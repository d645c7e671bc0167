"""Terminal output: nothing is interpreted, nothing is lost, at any width."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from vfindex.cli.output import clock, path_text, plain, print_json
from vfindex.storage.errors import counted
from vfindex.storage.records import box_words


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0.05, 0.69, 0.21, 0.77), "bottom left, x 5-21 %, y 69-77 %"),
        ((0.4, 0.0, 0.6, 0.1), "top, x 40-60 %, y 0-10 %"),
        ((0.0, 0.0, 1.0, 1.0), "middle, x 0-100 %, y 0-100 %"),
        ((0.9, 0.4, 1.0, 0.6), "right, x 90-100 %, y 40-60 %"),
        ((1.0, 1.0, 1.0, 1.0), "bottom right, x 100-100 %, y 100-100 %"),
    ],
)
def test_a_place_on_the_picture_in_words(box: tuple[float, float, float, float], words: str) -> None:
    assert box_words(box) == words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("a\nb\rc\td\x00\x7f", "a\\x0ab\\x0dc\\x09d\\x00\\x7f"),
        ("a\u202eb\u2066c\u200fd\u061ce", "a\\u202eb\\u2066c\\u200fd\\u061ce"),
        ("a\u2028b\u200bc\ufeffd", "a\\u2028b\\u200bc\\ufeffd"),
        (os.fsdecode(b"caf\xe9\xff"), "caf\\xe9\\xff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("[bold]x[/] :smile:", "[bold]x[/] :smile:"),
        ("a\u00a0b\u3000c", "a b c"),
    ],
)
def test_plain_escapes_control_sequences(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize("text", ["日本語 한국어", "naïve Ångström e\u0301", "👩‍👩‍👧 🎬", "می‌خواهم", "C:\\x"])
def test_plain_keeps_every_language(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    ("time_s", "tenths", "shown"),
    [
        (0, False, "0:00"),
        (59.4, False, "0:59"),
        (59.6, False, "1:00"),
        (59.96, True, "1:00.0"),
        (3599.9, False, "1:00:00"),
        (3599.94, True, "59:59.9"),
        (36_061.25, True, "10:01:01.2"),
        (-1, False, "0:00"),
    ],
)
def test_clock(time_s: float, tenths: bool, shown: str) -> None:
    assert clock(time_s, tenths=tenths) == shown


def test_one_is_not_a_plural() -> None:
    assert [counted(n, "clip") for n in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]


def test_json_gives_back_every_byte_of_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    path = bytes(range(1, 256)).replace(b"/", b"") + "日本".encode()
    print_json({"path": path_text(path), "none": path_text(None)})
    out = capsys.readouterr().out
    assert out.isascii()
    assert os.fsencode(json.loads(out)["path"]) == path
    assert json.loads(out)["none"] is None


def test_json_has_no_numbers_that_json_lacks() -> None:
    with pytest.raises(ValueError):
        print_json({"score": float("nan")})


# In a process of its own, for Rich looks at the real terminal.
SEARCH = """
import numpy as np
from vfindex.cli.entry import main
from vfindex.search.query.encode import QueryEncoder
QueryEncoder.encode = lambda *_: dict.fromkeys(("visual", "speech", "text"), np.eye(8, dtype=np.float32)[1])
main()
"""


def in_terminal(width: int, *arguments: str) -> str:
    """Return what `vfindex ARGUMENTS` writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    env["TERM"] = "xterm-256color"
    command = [sys.executable, "-c", SEARCH, *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=env) as process:
        os.close(theirs)
        written = b""
        while chunk := read_terminal(ours):
            written += chunk
        errors = process.stderr.read() if process.stderr else b""
    os.close(ours)
    assert process.returncode == 0, errors.decode()
    return written.decode().replace("\r\n", "\n")


def read_terminal(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux says EIO where the other end is closed
        return b""


def columns(lines: list[str]) -> list[str]:
    """Return the text of the columns "video" and "because" below their heading, without spaces."""
    video, because = lines[0].index("video"), lines[0].index("because")
    parts = [[line[video:because] for line in lines[1:]], [line[because:] for line in lines[1:]]]
    return [squeezed("".join(part)) for part in parts]


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("width", [200, 120, 110, 90, 60, 40])
def test_a_table_of_hostile_names_shows_them_whole_and_obeys_none(hostile: Any, width: int) -> None:
    written = in_terminal(width, "search", "hello", "--library", str(hostile.folder), "--per-video", "1")
    links = re.findall(r"\x1b\]8;[^;]*;(.*?)\x1b\\", written)
    assert set(links) == {"", *(Path(os.fsdecode(path)).as_uri() for path in hostile.paths())}
    assert all(re.fullmatch(r"[!-~]*", link) for link in links), "a link is plain ASCII, whatever the name"
    shown = re.sub(r"\x1b\]8;.*?\x1b\\|\x1b\[[0-9;]*m", "", written)
    assert "\x1b" not in shown
    assert not [c for c in shown if not c.isprintable() and c != "\n"]
    assert "\x1b[31m" not in written, "Rich is asked for bold, dim and italic only"
    lines = shown.split("\n")
    assert max(map(len, lines)) <= width
    places, reasons = columns(lines) if lines[0].startswith("#") else (squeezed(shown),) * 2
    for name in hostile.names:
        assert squeezed(plain(os.fsdecode(name))) in places
    assert places.count(squeezed(os.fsdecode(hostile.above))) == len(hostile.names)
    assert reasons.count(squeezed(r"\x1b]0;owned\x07 she said [red]hello[end]")) == len(hostile.names)


def test_show_and_status_obey_nothing_either(hostile: Any) -> None:
    for path in hostile.paths():
        if b"\xff" in path:  # one of each kind is enough
            break
    for arguments in (("status",), ("show", os.fsdecode(path))):
        written = in_terminal(80, *arguments, "--library", str(hostile.folder))
        assert not [c for c in written if not c.isprintable() and c != "\n"]


@pytest.mark.parametrize(
    ("arguments", "code", "unbuffered"),
    [
        (["search", "hello"], 0, ""),
        (["search", "hello", "--json"], 0, "1"),
        (["list"], 0, ""),
        (["status", "--no-such-option"], 2, "1"),
    ],
)
def test_a_reader_that_ends_early_changes_no_exit_code(
    hostile: Any, arguments: list[str], code: int, unbuffered: str
) -> None:
    gone, theirs = os.pipe()
    os.close(gone)
    command = [sys.executable, "-c", SEARCH, *arguments, "--library", str(hostile.folder)]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    both = subprocess.run(command, stdout=theirs, stderr=theirs, env=env, check=False)
    alone = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=env, text=True, check=False)
    os.close(theirs)
    assert (both.returncode, alone.returncode) == (code, code)
    assert "Broken" not in alone.stderr
