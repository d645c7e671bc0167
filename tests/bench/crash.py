"""SIGKILL at random instants: python tests/bench/crash.py [--kills N] [--searches N] [--only NAME...] [--cache DIR]

Ingest, reindex, remove, purge, publication, rebuild and repair over a few short videos, and reindex and remove with an
index of several segments, each time from the same library, are killed: every second time at a random instant of the
run, else within a randomly chosen phase, so that short phases are hit too. After each kill, SQLite's integrity check,
the row checksums and the bijection of clips and vectors must hold, no video may be lost or incomplete, and a search
must answer; repeating the command must give a library equal to that of an undisturbed run. Prints the phases of the
kills and `N kills, 0 losses`; exits with 1 after a loss. Then an open engine searches, `--searches` times in a row,
while a reindex commits and publishes and a purge deletes.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))

from crashing import NAMES, Machine, Meanwhile, Scenario, kill, make_scenarios, search_meanwhile

from vfindex.indexer.models.lite import ensure_lite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=NAMES, help="these commands alone")
    parser.add_argument("--cache", type=Path, default=os.environ.get("VFINDEX_CACHE"), help="exported models")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    # The server that the commands are forked from imports `crashing` too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[0], os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        cache = Path(arguments.cache or base / "cache")
        ensure_lite(cache)
        machine = Machine(cache)
        scenarios = make_scenarios(base, machine, arguments.only or NAMES)
        landed, losses = _kill_all(machine, scenarios, base, arguments.kills, chance)
        asked = Meanwhile()
        for scenario in scenarios:
            if scenario.name == "reindex" and arguments.searches:
                asked = search_meanwhile(machine, scenario, base, arguments.searches)
                print(*asked.faults, sep="\n")
    for (name, phase), n in sorted(landed.items()):
        print(f"{name:15} {n:4} while {phase}")
    print(f"{landed.total()} kills, {losses} losses")
    print(
        f"{asked.searches} searches while {asked.rounds} times a reindex and a purge wrote, {len(asked.faults)} faults"
    )
    sys.exit(losses > 0 or bool(asked.faults))


def _kill_all(
    machine: Machine, scenarios: list[Scenario], base: Path, kills: int, chance: random.Random
) -> tuple[Counter[tuple[str, str]], int]:
    """Kill until so many kills have landed; return where they landed, and how many left a fault."""
    landed: Counter[tuple[str, str]] = Counter()
    losses = 0
    while landed.total() < kills:
        scenario = scenarios[landed.total() % len(scenarios)]
        at = scenario.instant(chance)
        killed = kill(machine, scenario, base, at)
        if killed.phase is None:
            continue  # it was faster than the undisturbed run
        landed[scenario.name, killed.phase] += 1
        losses += bool(killed.faults)
        for fault in killed.faults:
            print(f"{scenario.name}, killed {at.after_s:.3f} s into {at.phase} {at.number}: {fault}", flush=True)
    return landed, losses


if __name__ == "__main__":
    main()
