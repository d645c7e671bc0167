"""Ingest, search and Ray without a network: no DNS lookups, no connections, and the user's home stays empty.

onnxruntime 1.32 looks up a vendor's host and writes a device id and a database into the user's cache; Ray starts a
process that queries the metadata hosts of clouds, and writes a token into the user's home.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import COMMAND
from media import Shot, make_video
from unplugged import Seen, unplugged

from vfindex import TELEMETRY_OFF

OTHER_WISHES = {"ORT_DISABLE_TELEMETRY": "0", "RAY_USAGE_STATS_ENABLED": "1", "HF_HUB_DISABLE_TELEMETRY": "0"}


def environment(home: Path, cache: Path) -> dict[str, str]:
    """Return this process's environment with an empty home, without vendors' switches and user folders.

    The hits of the last search, which `vfindex open` reads, go into a folder of their own.
    """
    home.mkdir()
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in TELEMETRY_OFF and not name.startswith(("XDG_", "RAY_"))
    }
    return kept | {"HOME": str(home), "VFINDEX_CACHE": str(cache), "XDG_STATE_HOME": str(home.with_name("state"))}


def assert_nothing_left(seen: Seen, home: Path) -> None:
    assert seen.code == 0, seen.err
    assert (seen.lookups, seen.connections) == ([], [])
    assert [path for path in home.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_ingest_and_search_make_no_connections(tmp_path: Path, models_cache: Path, runner: str) -> None:
    (tmp_path / "videos").mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        make_video(tmp_path / "videos" / f"{name}.mp4", shots=[Shot(colour, 2.0), Shot("green", 2.0)], tone_hz=440)
    home, library = tmp_path / "home", ["--library", str(tmp_path / "library")]
    alone = environment(home, models_cache)
    ingest = [*COMMAND, "ingest", str(tmp_path / "videos"), "--runner", runner, *library]
    assert_nothing_left(unplugged(ingest, alone, 230), home)
    # Telemetry is sent at the end of a search. Two searches, because the first creates an identity.
    for question in ("a red wall", "something green"):
        assert_nothing_left(unplugged([*COMMAND, "search", question, *library], alone, 120), home)


def test_the_monitor_records_lookups_and_connections(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "for host in ('telemetry.example', '192.0.2.1'):\n"
        "    try: socket.create_connection((host, 443), timeout=0.2)\n"
        "    except OSError: pass\n"
        "raise SystemExit(3)"
    )
    seen = unplugged([sys.executable, "-c", code], os.environ, 60)
    assert (seen.code, set(seen.lookups), seen.connections) == (3, {"telemetry.example"}, ["192.0.2.1"])


def test_the_switches_are_set_before_any_library_whatever_the_user_set() -> None:
    code = "import os, sys, vfindex\nprint(*sorted(os.environ.items()), sep='\\n')\nassert 'numpy' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | OTHER_WISHES,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {str(item) for item in TELEMETRY_OFF.items()} <= set(done.stdout.splitlines())
    assert OTHER_WISHES.keys() <= TELEMETRY_OFF.keys()
