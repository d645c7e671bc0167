"""SIGKILL at random instants of an upgrade: python tests/bench/upgrade.py [--kills N] [--cache DIR]

A library of three short videos is upgraded to another sampling, once undisturbed and then, each time from the
beginning, in a process that is killed at a random instant of it. After every kill the library must answer,
with the old version unless the swap was done, and `verify` must be clean; repeating the command must give a library
equal to the undisturbed one. Prints a line per kill and a summary; exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))

from equality import assert_equal_libraries
from killing import end_upgrade, kill_upgrade, make_videos

from vfindex.indexer.models.presets import Choice
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.storage.index.model_versions import history
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify


def complete(library: Path, undisturbed: Path, cache: Path) -> bool:
    """Return whether repeating the command completes the upgrade as an undisturbed run does."""
    try:
        if history(library)[0] == 0:
            end_upgrade(library, cache)
        assert_equal_libraries(library, undisturbed)
    except (AssertionError, RuntimeError) as exc:
        print(exc, file=sys.stderr)
        return False
    return verify(Library.open(library)).clean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=os.environ.get("VFINDEX_CACHE"), help="exported models")
    arguments = parser.parse_args()
    instants = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        cache = Path(arguments.cache or base / "cache")
        settings = RunSettings(cache=cache, choice=Choice(preset="lite"), workers=2)
        ingest(base / "made", [os.fsencode(make_videos(base / "videos"))], settings)
        shutil.copytree(base / "made", base / "undisturbed")
        length_s = end_upgrade(base / "undisturbed", cache)
        sound = old = number = 0
        while number < arguments.kills:
            library = Path(shutil.copytree(base / "made", base / "killed"))
            after_s = length_s * instants.random()
            killed = kill_upgrade(library, cache, after_s)
            if killed.ended:
                length_s = after_s  # the machine has become faster
            else:
                number += 1
                repeated = complete(library, base / "undisturbed", cache)
                sound += killed.answers and killed.clean and repeated
                old += not killed.swapped
                print(f"{number:3} after {after_s:5.2f} s: {killed}, repeated well: {repeated}", flush=True)
            shutil.rmtree(library)
        print(f"{number} kills: {sound} left a library that answers, is clean, and ends well; {old} before the swap")
        sys.exit(sound < arguments.kills)


if __name__ == "__main__":
    main()
