"""Seeded mutations of media, sidecars and libraries, and commands in monitored processes.

A command runs in a fork of this process, which has imported what commands need: a cold start would take most of the
time. This process is the subreaper of the command's orphans, so no process escapes.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_POLL_S = 0.02
# Modules that commands import lazily.
_PRELOADED = (
    *("vfindex.cli.app", "vfindex.indexer.runs.ingest", "vfindex.indexer.runs.scheduler"),
    *("vfindex.indexer.runs.repair", "vfindex.storage.maintenance.verify", "vfindex.search.engine"),
    *("faiss", "onnxruntime", "PIL.WebPImagePlugin"),
)
# Permitted exit codes: success, and failure with a sentence.
EXPECTED_CODES = (0, 1)


@dataclass(frozen=True)
class Ran:
    """The outcome of a command. code: None if it was killed at its limit. left: processes that outlived it."""

    code: int | None
    out: str
    err: str
    seconds: float
    peak_bytes: int
    left: int

    def document(self) -> Any:
        return json.loads(self.out)

    def faults(self, name: str) -> list[str]:
        """Return the faults, one sentence each."""
        faults = []
        if self.code is None:
            faults.append(f"{name} hangs: ended after {self.seconds:.0f} s")
        elif self.code not in EXPECTED_CODES:
            faults.append(f"{name} ends with exit code {self.code}: {self.err[-2000:]}")
        if "Traceback (most recent call last)" in self.err:
            faults.append(f"{name} prints a traceback: {self.err[-2000:]}")
        if self.left:
            faults.append(f"{name} leaves {self.left} processes behind")
        return faults


class Machine:
    """Runs `vfindex ARGUMENTS` with its own cache, and its own temporary folder, which must be empty afterwards."""

    def __init__(self, cache: Path, scratch: Path) -> None:
        self.scratch = scratch
        self.peak_bytes = 0
        scratch.mkdir()
        os.environ["VFINDEX_CACHE"] = os.fspath(cache)
        os.environ["TMPDIR"] = tempfile.tempdir = os.fspath(scratch)
        for module in _PRELOADED:  # once for all forks
            importlib.import_module(module)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self, *arguments: object, limit_s: float) -> Ran:
        """Run a command, for at most `limit_s`."""
        out, err = self.scratch.with_name("out"), self.scratch.with_name("err")
        began = time.monotonic()
        process = os.fork()
        if not process:
            _act([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments], out, err)
        code, peak_bytes = self._wait(process, began + limit_s)
        seconds = time.monotonic() - began
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
        left = _end_children()
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
        return Ran(code, *texts, seconds, peak_bytes, 0 if code is None else left)

    def leftovers(self) -> list[str]:
        """Return and delete what is left in the temporary folder."""
        names = sorted(os.listdir(self.scratch))
        shutil.rmtree(self.scratch)
        self.scratch.mkdir()
        return names

    def _wait(self, process: int, until: float) -> tuple[int | None, int]:
        """Return the exit code, None at the limit, and the peak memory of any of its processes."""
        hung = False
        while True:
            ended, status, usage = os.wait4(process, os.WNOHANG)
            if ended:
                return None if hung else os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
            if not hung and time.monotonic() > until:
                hung = True
                os.kill(process, signal.SIGKILL)
            time.sleep(_POLL_S)


def _act(arguments: Sequence[str], out: Path, err: Path) -> None:
    """In the fork: run the command with its output in files, and exit."""
    from vfindex.cli.app import main

    for descriptor, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, descriptor)
    code = 70
    try:
        sys.argv = ["vfindex", *arguments]
        main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_children() -> int:
    """Kill and count the remaining child processes; those that end by themselves do not count."""
    counted = 0
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return counted
        if ended:
            continue
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
        time.sleep(_POLL_S)
        for child in children:  # processes that end within this time do not count
            if os.waitpid(int(child), os.WNOHANG)[0] == 0:
                counted += 1
                os.kill(int(child), signal.SIGKILL)
                os.waitpid(int(child), 0)


# --- bytes ----------------------------------------------------------------------------------------------------------

# Boundary values of 8 to 64 bit integers.
_EXTREMES = tuple(
    value.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for value in (0, 1, (1 << (8 * size - 1)) - 1, 1 << (8 * size - 1), (1 << 8 * size) - 1)
    for order in ("big", "little")
)


def mutated(data: bytes, chance: random.Random, other: bytes = b"") -> bytes:
    """Return the data after one to four mutations. other: data to splice in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        _MUTATIONS[chance.randrange(len(_MUTATIONS))](changed, chance, other)
    return bytes(changed)


def _place(data: bytearray, chance: random.Random) -> int:
    """Return a position in the data, every second time near its beginning, where headers are."""
    end = len(data) if chance.random() < 0.5 else min(len(data), 2048)
    return chance.randrange(end) if end else 0


def _flip(data: bytearray, chance: random.Random, _: bytes) -> None:
    for _number in range(chance.choice((1, 4, 32))):
        if data:
            data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _extreme(data: bytearray, chance: random.Random, _: bytes) -> None:
    value, place = chance.choice(_EXTREMES), _place(data, chance)
    data[place : place + len(value)] = value


def _cut(data: bytearray, chance: random.Random, _: bytes) -> None:
    del data[_place(data, chance) + 1 :]


def _remove(data: bytearray, chance: random.Random, _: bytes) -> None:
    place = _place(data, chance)
    del data[place : place + chance.choice((1, 16, 4096))]


def _repeat(data: bytearray, chance: random.Random, _: bytes) -> None:
    place, size = _place(data, chance), chance.choice((4, 64, 4096))
    data[place:place] = data[place : place + size] * chance.choice((1, 8))


def _zero(data: bytearray, chance: random.Random, _: bytes) -> None:
    place = _place(data, chance)
    size = min(chance.choice((4, 512, 8192)), len(data) - place)
    data[place : place + size] = bytes(size)


def _noise(data: bytearray, chance: random.Random, _: bytes) -> None:
    place = _place(data, chance)
    size = min(chance.choice((4, 64, 1024)), len(data) - place)
    data[place : place + size] = chance.randbytes(size)


def _splice(data: bytearray, chance: random.Random, other: bytes) -> None:
    if other:
        begin = chance.randrange(len(other))
        place = _place(data, chance)
        data[place:] = other[begin:] if chance.random() < 0.5 else other[begin : begin + 4096] + data[place:]


_MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    *(_flip, _flip, _extreme, _extreme),
    *(_cut, _remove, _repeat, _zero, _noise, _splice),
)


# --- sidecars -------------------------------------------------------------------------------------------------------

_LINES = (
    "00:00:01,000 --> 00:00:00,500",
    "-00:00:01,000 --> 00:00:02,000",
    "99:59:59,999 --> 999:59:59,999",
    "00:00:00.000 --> 00:00:01.000 --> 00:00:02.000",
    "NOTE " + "x" * 5000,
    "<i>" * 2000,
    "{\\p1}m 0 0 l 1 1{\\p0}" * 50,
    "&#x110000;&#xd800;&nbsp;&amp" * 20,
    "\u202e\u2066\ufeff\u200b",
    "Dialogue: 0,0:00:00.00,9:99:99.99,Default,,0,0,0,,{\\k1}" + "word " * 400,
    "STYLE\n::cue { color: red }",
    "\x00\x01\x1b[31m",
    "F/2.8, SS 320, ISO 100, EV 0, GPS (13.38, 52.51, 20)",
)
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "cp1251", "gb18030", "shift_jis")


def mutated_text(text: str, chance: random.Random) -> bytes:
    """Return a sidecar after mutations of its lines and, every second time, of its bytes."""
    lines = text.splitlines()
    for _ in range(chance.choice((0, 1, 3, 10))):
        place = chance.randrange(len(lines) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            lines.insert(place, chance.choice(_LINES))
        elif kind == 1:
            del lines[place : place + chance.choice((1, 2, 5))]
        elif kind == 2:
            lines[place:place] = lines[place : place + 3] * chance.choice((1, 100, 3000))
        else:
            lines[place:] = [line.replace("0", chance.choice("0987")) for line in lines[place:]]
    data = chance.choice(("\n", "\r\n", "\r")).join(lines).encode(chance.choice(_ENCODINGS), "replace")
    return mutated(data, chance, _LINES[0].encode()) if chance.random() < 0.5 and data else data


# --- libraries ------------------------------------------------------------------------------------------------------

_VALUES = (
    *(None, "", "x", "NaN", "null", "{}", "[1e999]", b"", b"\xff\xfe"),
    *(-1, 0, 1, 1 << 62, 1e308, -1e308, float("inf")),
)


def damage(folder: Path, chance: random.Random) -> str:
    """Damage a copy of a library in one way; return a description of it."""
    return chance.choice(_DAMAGES)(folder, chance)


def _rewrite(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change a file's bytes; a hard link is first replaced by a copy."""
    data = bytearray(path.read_bytes())
    change(data)
    path.unlink()
    path.write_bytes(data)


def _damage_bytes(folder: Path, chance: random.Random) -> str:
    _rewrite(folder / "library.db", lambda data: _MUTATIONS[chance.choice((0, 2, 7, 8))](data, chance, b""))
    return "bytes of library.db"


def _damage_page(folder: Path, chance: random.Random) -> str:
    def change(data: bytearray) -> None:
        page = chance.randrange(len(data) // 4096)
        filled = chance.choice((bytes(4096), chance.randbytes(4096), bytes(data[:4096])))
        data[page * 4096 : (page + 1) * 4096] = filled

    _rewrite(folder / "library.db", change)
    return "a page of library.db"


def _damage_length(folder: Path, chance: random.Random) -> str:
    _rewrite(folder / "library.db", lambda data: _cut(data, chance, b""))
    return "library.db cut"


def _damage_value(folder: Path, chance: random.Random) -> str:
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        table = chance.choice(_tables(connection))
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        column, value = chance.choice(columns), chance.choice(_VALUES)
        count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        where = f"(SELECT {columns[0]} FROM {table} LIMIT 1 OFFSET {chance.randrange(max(1, count))})"
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {columns[0]} = {where}", (value,))
        except sqlite3.Error:
            return f"nothing: {table}.{column} cannot be {value!r}"
    return f"{table}.{column} set to {value!r}"


def _damage_rows(folder: Path, chance: random.Random) -> str:
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        table = chance.choice(_tables(connection))
        column = connection.execute(f"PRAGMA table_info({table})").fetchone()[1]
        connection.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT {column} FROM {table} LIMIT 1)")
    return f"a row of {table} deleted"


def _damage_setting(folder: Path, chance: random.Random) -> str:
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        key, value = chance.choice(connection.execute("SELECT key, value FROM meta ORDER BY key").fetchall())
        changed = chance.choice(
            ("", "null", "{}", "[]", value[: len(value) // 2], value.replace("0", "9"), "[" * 100_000)
        )
        connection.execute("UPDATE meta SET value = ? WHERE key = ?", (changed, key))
    return f"setting {key} is {changed[:40]!r}"


def _damage_schema(folder: Path, chance: random.Random) -> str:
    def change(data: bytearray) -> None:
        places = [n for n in range(len(data)) if data.startswith(b"CREATE ", n)]
        data[chance.choice(places) + chance.randrange(7, 40)] = 0xFF

    _rewrite(folder / "library.db", change)
    return "a byte of the schema"


def _damage_file(folder: Path, chance: random.Random) -> str:
    part = chance.choice(("index", "query", "thumbs"))
    files = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    if not files:
        return f"nothing: no file in {part}"
    path = chance.choice(files)
    if chance.random() < 0.2:
        path.unlink()
    else:
        _rewrite(path, lambda data: _MUTATIONS[chance.randrange(len(_MUTATIONS))](data, chance, b"other"))
    return f"{part}/{path.name}"


def _damage_log(folder: Path, chance: random.Random) -> str:
    name = chance.choice(("library.db-wal", "library.db-shm", "current", "library.db-journal"))
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(chance.randbytes(chance.choice((0, 1, 32, 40_000))))
    return f"noise as {name}"


def _tables(connection: sqlite3.Connection) -> list[str]:
    """Return the tables that hold rows of vfindex's own."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
    return [name for (name,) in connection.execute(query) if "_fts" not in name]


_DAMAGES: tuple[Callable[[Path, random.Random], str], ...] = (
    *(_damage_bytes, _damage_bytes, _damage_page, _damage_page, _damage_length),
    *(_damage_value, _damage_value, _damage_value, _damage_rows, _damage_setting, _damage_setting),
    *(_damage_schema, _damage_file, _damage_file, _damage_log),
)
