"""One service under many threads: python tests/bench/service.py LIBRARY --media FOLDER [--questions N] [--clients N]

Three measurements on copies of a library with published videos. FOLDER: with `queries.jsonl` and `videos/`, as in
docs/evaluation.md; half of the questions get a filter.

changes: threads ask one service while `vfindex reindex` publishes three generations of new, changed, deleted and
restored files. Every commit of these runs is a state, for which a fresh engine answers every question before the run
goes on. An answer must be, hit by hit, that of one state, and no thread may see an older state than before.
memory: the peaks of the anonymous and of the proportional memory of a process whose one service answers one thread, or
all.
latency: the clients of one service, against the same clients of two processes that answer one question at a time each.
p50, p99, questions per second and processor time; runs alternate, so other work on the machine affects both alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import queue
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vfindex.cli.app import main as vfindex
from vfindex.search.engine import SearchEngine
from vfindex.search.evaluation.datasets import read_questions
from vfindex.search.service import SearchService
from vfindex.storage.db.engine import DatabaseConnection
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.library import Library

FILTERS = ("longer:5s", "shorter:60s", "in:*v0*", "lang:en")
GENERATIONS, PROCESSES = 3, 2
# Different questions asked while the library changes: each is answered once more after every commit.
ASKED = 16
# Between two questions of a client while the library changes, so that the run gets on.
PAUSE_S = 0.1
SAMPLE_S = 0.2


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        _run_and_record(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description="Measure a service under many threads.")
    parser.add_argument("library", type=Path)
    parser.add_argument("--media", type=Path, required=True, help="folder with queries.jsonl and videos/")
    parser.add_argument("--questions", type=int, default=2000, help="in all (default: 2000)")
    parser.add_argument("--clients", type=int, default=8, help="threads (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="of the latencies (default: 5)")
    parser.add_argument("--only", choices=("changes", "memory", "latency"), help="one of the measurements")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    texts = questions(arguments.media)
    if arguments.threads:
        print(json.dumps(peaks_mib(arguments.library, texts, arguments.threads, arguments.questions)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.library}")
    if arguments.only in (None, "changes"):
        _changes(arguments.library, arguments.media, texts, (arguments.questions, arguments.clients))
    if arguments.only in (None, "memory"):
        _memory(arguments)
    if arguments.only in (None, "latency"):
        _latency(arguments.library, texts, (arguments.questions, arguments.clients), arguments.rounds)
    print(f"load {os.getloadavg()[0]:.1f}")


def questions(media: Path) -> list[str]:
    """Return the questions of a collection, and after each the same one with a filter."""
    plain = [question.text for question in read_questions(media / "queries.jsonl")]
    return [text for each, also in zip(plain, itertools.cycle(FILTERS)) for text in (each, f"{each} {also}")]


# --- changes --------------------------------------------------------------------------------------------------------


def _answer(engine: SearchEngine | SearchService, text: str) -> list[Any]:
    """Return all of an answer's hits; not which of their files exist, which a file system changes without a commit."""
    options = {} if isinstance(engine, SearchEngine) else {"min_confidence": "none"}
    hits = engine.search(text, **options).to_dict()["hits"]
    return [{name: hit[name] for name in hit if name not in ("video", "also", "thumbnail")} for hit in hits]


def _run_and_record(folder: Path, states: Path, arguments: Sequence[str]) -> None:
    """Run a command on a library; after every commit append the answers of a fresh engine to a file."""
    texts = json.loads(states.with_suffix(".questions").read_text(encoding="utf-8"))
    commit, open_text = DatabaseConnection.commit, TextEncoder.open
    TextEncoder.open = cache(open_text)  # type: ignore[method-assign]  # its files do not change
    recording = threading.Lock()

    def committed(connection: DatabaseConnection) -> None:
        is_change = connection.in_transaction
        commit(connection)
        if is_change and connection.folder == folder and recording.acquire(blocking=False):
            try:
                _record(folder, states, texts)
            finally:
                recording.release()

    DatabaseConnection.commit = committed  # type: ignore[method-assign]
    sys.argv[1:] = arguments
    vfindex()


def _record(folder: Path, states: Path, texts: Sequence[str]) -> None:
    engine = SearchEngine.open(folder)
    state = json.dumps([_answer(engine, text) for text in texts])
    engine.close()
    with states.open("a", encoding="utf-8") as file:
        file.write(state + "\n")


@dataclass
class Source:
    """A folder of videos that a library follows."""

    folder: Path
    videos: Sequence[Path]

    def put(self, name: str, number: int, edition: int) -> None:
        """Write one of the videos; another edition has other content: a `free` box more at its end."""
        padding = (16).to_bytes(4) + b"free" + edition.to_bytes(8)
        (self.folder / name).write_bytes(self.videos[number].read_bytes() + padding)

    def change(self, generation: int) -> None:
        """Make the changes that a run is to find."""
        self.put(f"new{generation}.mp4", generation, 1)
        self.put("changed.mp4", 0, generation)
        match generation:
            case 1:
                (self.folder / "deleted.mp4").rename(self.folder.parent / "deleted.mp4")
            case 2:
                subtitle = "1\n00:00:00,500 --> 00:00:02,000\na man plays the guitar\n"
                (self.folder / "new1.srt").write_text(subtitle, encoding="utf-8")
            case _:
                (self.folder.parent / "deleted.mp4").rename(self.folder / "deleted.mp4")


def _changes(library: Path, media: Path, texts: Sequence[str], size: tuple[int, int]) -> None:
    questions, clients = size
    texts = texts[:: max(1, len(texts) // ASKED) | 1][:ASKED]
    with tempfile.TemporaryDirectory() as scratch:
        folder, states = Path(scratch) / "library", Path(scratch) / "states"
        shutil.copytree(library, folder)
        states.with_suffix(".questions").write_text(json.dumps(texts), encoding="utf-8")
        videos = sorted((media / "videos").glob("*.mp4"), key=lambda path: path.stat().st_size)
        source = Source(Path(scratch) / "source", videos)
        source.folder.mkdir()
        source.put("deleted.mp4", GENERATIONS + 1, 1)
        source.put("changed.mp4", 0, 0)
        program = str(Path(sys.executable).with_name("vfindex"))
        for command in (["ingest", str(source.folder)], ["reindex"]):  # that of an older library reads every file once
            subprocess.run([program, *command, "--library", str(folder)], check=True, capture_output=True)
        _record(folder, states, texts)
        first = _generation(folder)
        done, failures = threading.Event(), []

        def ask(number: int) -> list[tuple[int, str]]:
            found: list[tuple[int, str]] = []
            while len(found) < questions // clients or not done.is_set():
                chosen = (number + len(found)) % len(texts)
                try:
                    found.append((chosen, json.dumps(_answer(service, texts[chosen]))))
                except Exception as exc:  # noqa: BLE001  any failure counts
                    failures.append(exc)
                    break
                time.sleep(PAUSE_S)
            return found

        with SearchService(folder) as service, ThreadPoolExecutor(clients) as pool:
            asked = [pool.submit(ask, number) for number in range(clients)]
            try:
                for generation in range(1, GENERATIONS + 1):
                    source.change(generation)
                    command = [sys.executable, __file__, "--run", str(folder), str(states), "reindex"]
                    command += ["--allow-missing", "--library", str(folder)]
                    subprocess.run(command, check=True, capture_output=True)
            finally:
                done.set()
            found = [future.result() for future in asked]
            fresh = SearchEngine.open(folder)
            last = [text for text in texts if _answer(service, text) != _answer(fresh, text)]
            published = _generation(folder) - first
        recorded = [[json.dumps(each) for each in json.loads(line)] for line in states.open(encoding="utf-8")]
    wrong, back = _compared(found, recorded)
    answers = sum(map(len, found))
    print(f"changes: {answers} answers of {clients} threads to {len(texts)} questions, {len(failures)} failures")
    different = len({tuple(state) for state in recorded})
    print(f"changes: {published} generations, {len(recorded)} commits, {different} different states")
    print(
        f"changes: {wrong} answers of no state, {back} of an older one than before, {len(last)} unlike a fresh engine's"
    )
    if failures or wrong or back or last or published != GENERATIONS:
        print(*failures[:3], sep="\n")
        sys.exit(1)


def _generation(folder: Path) -> int:
    with Library.open(folder).snapshot() as snapshot:
        generation = snapshot.generation()
        return 0 if generation is None else generation.id


def _compared(found: Sequence[Sequence[tuple[int, str]]], states: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return how many answers are of no state, and how many of an older state than the thread's answer before."""
    wrong = back = 0
    for of_thread in found:
        now = 0
        for chosen, answer in of_thread:
            matching = [number for number, state in enumerate(states) if state[chosen] == answer]
            wrong += not matching
            later = [number for number in matching if number >= now]
            back += bool(matching) and not later
            now = later[0] if later else now
    return wrong, back


# --- memory ---------------------------------------------------------------------------------------------------------


def peaks_mib(library: Path, texts: Sequence[str], threads: int, questions: int) -> dict[str, float]:
    """Return the peaks of this process's memory while `threads` ask: anonymous, and proportional with mapped files."""
    peaks, done = {"Anonymous": 0.0, "Pss": 0.0}, threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
            for name in peaks:
                [kib] = re.findall(rf"^{name}:\s+(\d+) kB", text, re.M)
                peaks[name] = max(peaks[name], int(kib) / 1024)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    with SearchService(library) as service, ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda text: len(service.search(text)), itertools.islice(itertools.cycle(texts), questions)))
    done.set()
    sampler.join()
    return peaks


def _memory(arguments: argparse.Namespace) -> None:
    command = [sys.executable, __file__, str(arguments.library), "--media", str(arguments.media)]
    command += ["--questions", str(arguments.questions), "--threads"]
    one, all_ = (
        json.loads(subprocess.run([*command, str(n)], check=True, capture_output=True, text=True).stdout)
        for n in (1, arguments.clients)
    )
    for name, kind in (("Anonymous", "anonymous"), ("Pss", "proportional")):
        print(
            f"memory, {kind:12}: 1 thread {one[name]:.0f} MiB, {arguments.clients} threads {all_[name]:.0f} MiB", end=""
        )
        print(f", {all_[name] / one[name]:.2f} times")


# --- latency --------------------------------------------------------------------------------------------------------


def _latency(library: Path, texts: Sequence[str], size: tuple[int, int], rounds: int) -> None:
    asked, clients = size
    texts = list(itertools.islice(itertools.cycle(texts), asked // rounds))
    ratios, rates = [], []
    for _ in range(rounds):
        threads, processes = _of_threads(library, texts, clients), _of_processes(library, texts, clients)
        ratios.append(threads.p50_s / processes.p50_s)
        rates.append(threads.rate / processes.rate)
        for name, taken in (("threads", threads), ("processes", processes)):
            print(f"latency of {clients} clients, {name:10} {taken}")
    print(f"latency: p50 of one service {statistics.median(ratios):.2f} times that of {PROCESSES} processes", end="")
    print(f", questions/s {statistics.median(rates):.2f} times; medians of {rounds} rounds")


@dataclass(frozen=True)
class Taken:
    """Seconds of each question, of all by the clock, and of the processor."""

    each_s: Sequence[float]
    wall_s: float
    cpu_s: float

    @property
    def p50_s(self) -> float:
        return statistics.median(self.each_s)

    @property
    def rate(self) -> float:
        return len(self.each_s) / self.wall_s

    def __str__(self) -> str:
        p99_s, cpu_s = statistics.quantiles(self.each_s, n=100)[-1], self.cpu_s / len(self.each_s)
        times = f"p50 {1000 * self.p50_s:6.1f} ms  p99 {1000 * p99_s:6.1f} ms  processor {1000 * cpu_s:5.1f} ms"
        return f"{times}  {self.rate:5.1f} questions/s"


def _ask_all(ask: Callable[[int, str], object], texts: Sequence[str], clients: int) -> tuple[list[float], float]:
    """Return the seconds of each question by `clients` that ask one after another, and of all."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for text in texts:
        waiting.put(text)

    def client(number: int) -> list[float]:
        taken = []
        while True:
            try:
                text = waiting.get_nowait()
            except queue.Empty:
                return taken
            start = time.perf_counter()
            ask(number, text)
            taken.append(time.perf_counter() - start)

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        each = [second for part in pool.map(client, range(clients)) for second in part]
    return each, time.perf_counter() - start


def _of_threads(library: Path, texts: Sequence[str], clients: int) -> Taken:
    with SearchService(library) as service:

        def ask(_: int, text: str) -> None:
            service.search(text, min_confidence="none")

        _ask_all(ask, texts[: 2 * clients], clients)
        before = time.process_time()
        each, wall_s = _ask_all(ask, texts, clients)
        return Taken(each, wall_s, time.process_time() - before)


def _serve(library: Path, asked: Any, answered: Sequence[Any]) -> None:
    """Answer questions in their order, one at a time. asked: (client, text), or None: answer the processor time."""
    engine = SearchEngine.open(library)
    while True:
        client, text = asked.get()
        answered[client].put(time.process_time() if text is None else len(engine.search(text)))


def _of_processes(library: Path, texts: Sequence[str], clients: int) -> Taken:
    with _workers(library, clients) as (asked, answered):

        def ask(client: int, text: str | None) -> Any:
            asked[client % PROCESSES].put((client, text))
            return answered[client].get()

        _ask_all(ask, texts[: 2 * clients], clients)
        before = sum(ask(client, None) for client in range(PROCESSES))
        each, wall_s = _ask_all(ask, texts, clients)
        return Taken(each, wall_s, sum(ask(client, None) for client in range(PROCESSES)) - before)


@contextmanager
def _workers(library: Path, clients: int) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    context = multiprocessing.get_context("spawn")
    asked = [context.SimpleQueue() for _ in range(PROCESSES)]
    answered = [context.SimpleQueue() for _ in range(clients)]
    workers = [context.Process(target=_serve, args=(library, each, answered)) for each in asked]
    for worker in workers:
        worker.start()
    try:
        yield asked, answered
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


if __name__ == "__main__":
    main()
