"""Time and size of a migration, and whether it survives kills:

    python tests/bench/migrate.py LIBRARY FOLDER [--kills N]

LIBRARY, written by an earlier version, is copied into FOLDER. First a process migrates a copy undisturbed. Then
processes that migrate another copy are killed, each at a random share (seed 0) of that time; after each kill a reader
must find the library as it was. Where the process ended before, another copy is taken. At last the migration ends, and
the two copies must hold the same rows.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from vfindex.storage.library import Library
from vfindex.storage.settings_backup import INODE

MIGRATE = """
import sys
from pathlib import Path
from vfindex.storage.writer import writing
with writing(Path(sys.argv[1])):
    pass
"""


def started(library: Path) -> subprocess.Popen[bytes]:
    """Start a process that migrates the library."""
    return subprocess.Popen([sys.executable, "-c", MIGRATE, str(library)])


def digest(library: Path) -> dict[str, str]:
    """Return table -> sha256 of its rows, without the times of migrations and the inode of the file."""
    found = {}
    with closing(sqlite3.connect(library / "library.db")) as connection:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = {name for (name,) in connection.execute(tables)} - {"migration"}
        for name in sorted(names):
            columns = sorted(f'"{row[1]}"' for row in connection.execute(f"PRAGMA table_info({name})"))
            sha = hashlib.sha256()
            for row in connection.execute(f"SELECT {', '.join(columns)} FROM {name} ORDER BY {', '.join(columns[:2])}"):
                if INODE not in row:  # the file's own
                    sha.update(repr(row).encode())
            found[name] = sha.hexdigest()
    return found


def contents(library: Path) -> tuple[object, ...]:
    """Return what a reader finds: counts, clips, the first video."""
    with Library.open(library).snapshot() as snapshot:
        return snapshot.counts(), len(snapshot.clip_ids()), snapshot.videos([1])


def megabytes(library: Path) -> float:
    return sum(path.stat().st_size for path in library.glob("library.db*")) / 1e6


def run(library: Path, folder: Path, kills: int) -> None:
    whole, killed = folder / "whole", folder / "killed"
    for copy in (whole, killed):
        shutil.copytree(library, copy)
    before, size_mb = contents(killed), megabytes(whole)
    start = time.perf_counter()
    if started(whole).wait():
        raise SystemExit("the migration failed")
    took_s = time.perf_counter() - start
    print(f"{before[1]} clips: {took_s:.1f} s, {size_mb:.0f} MB before, {megabytes(whole):.0f} MB after")
    chance, hits, early = random.Random(0), 0, 0
    while hits < kills:
        process = started(killed)
        time.sleep(took_s * chance.random())
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:  # it had ended: a new copy, and another instant
            early += 1
            shutil.rmtree(killed)
            shutil.copytree(library, killed)
            continue
        hits += 1
        if contents(killed) != before:
            raise SystemExit(f"after kill {hits} a reader finds something else")
    if started(killed).wait():
        raise SystemExit("the migration failed after the kills")
    differ = [name for name, sha in digest(whole).items() if digest(killed).get(name) != sha]
    print(f"{kills} kills, {early} more came too late; tables that differ: {', '.join(differ) or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a migration, and kill it.")
    parser.add_argument("library", type=Path)
    parser.add_argument("folder", type=Path, help="for the copies; made, must not exist")
    parser.add_argument("--kills", type=int, default=10, help="how many (default: 10)")
    arguments = parser.parse_args()
    run(arguments.library, arguments.folder, arguments.kills)


if __name__ == "__main__":
    main()
