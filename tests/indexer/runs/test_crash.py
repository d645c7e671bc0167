"""SIGKILL at any instant loses no committed unit, and repeating the command gives the library of an undisturbed run.

Nor does a search fail, or see half a video, while commands write. `tests/bench/crash.py` does both some hundred times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from crashing import Machine, Scenario, kill, make_scenarios, search_meanwhile

# Kills of ingest, reindex, remove, purge and publication.
KILLS = {"ingest": 3, "reindex": 3, "remove": 3, "purge": 3, "publish": 3}
SEED = 8
SEARCHES = 100


@dataclass(frozen=True)
class Bed:
    """Where commands are killed: who runs them, on what, and a folder to do it in."""

    machine: Machine
    scenarios: dict[str, Scenario]
    base: Path


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Iterator[Bed]:
    base = tmp_path_factory.mktemp("crash")
    with pytest.MonkeyPatch.context() as patch:
        tests = os.fspath(Path(__file__).parents[2])
        patch.setenv("PYTHONPATH", tests, prepend=os.pathsep)  # for the server that the commands are forked from
        machine = Machine(models_cache)
        yield Bed(machine, {scenario.name: scenario for scenario in make_scenarios(base, machine, KILLS)}, base)


@pytest.mark.parametrize("name", KILLS)
def test_killed_at_random_instants(bed: Bed, name: str) -> None:
    chance = random.Random(SEED)
    landed = 0
    while landed < KILLS[name]:
        killed = kill(bed.machine, bed.scenarios[name], bed.base, bed.scenarios[name].instant(chance))
        assert not killed.faults, f"while {killed.phase}"
        landed += killed.phase is not None


def test_no_search_fails_and_none_sees_half_a_video(bed: Bed) -> None:
    asked = search_meanwhile(bed.machine, bed.scenarios["reindex"], bed.base, SEARCHES)
    assert asked.faults == []
    assert asked.searches >= SEARCHES
    assert asked.generations >= 2, "the joint index was published meanwhile"
