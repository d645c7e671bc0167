"""SIGKILL at any instant loses nothing that was committed, and the repetition ends where an undisturbed run would.

`tests/bench/crash.py` does the same some hundred times.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from crashing import Machine, kill, make_scenarios

# Kills of ingest, reindex, remove, purge and publication.
KILLS = {"ingest": 3, "reindex": 3, "remove": 3, "purge": 3, "publish": 3}
SEED = 8


def test_killed_at_random_instants(tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = os.fspath(Path(__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", tests, prepend=os.pathsep)  # for the server that the commands are forked from
    machine = Machine(models_cache)
    scenarios = make_scenarios(tmp_path, machine)
    assert {scenario.name for scenario in scenarios} == KILLS.keys()
    chance = random.Random(SEED)
    for scenario in scenarios:
        landed = 0
        while landed < KILLS[scenario.name]:
            killed = kill(machine, scenario, tmp_path, scenario.instant(chance))
            assert not killed.faults, f"{scenario.name}, while {killed.phase}"
            landed += killed.phase is not None
