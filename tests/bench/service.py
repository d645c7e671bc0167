"""One service under many threads: python tests/bench/service.py LIBRARY [--questions N] [--clients N]

Three measurements, on copies of a library with published videos:

changes: threads ask one service while a writer publishes three generations, each with new copies of some videos. Every
answer must be that of a state: of a fresh engine before or after a commit.
memory: peak resident memory of a process whose one service answers one thread, or all threads.
latency: the clients of one service, against the same clients of two processes that answer one question at a time each.
p50, p99 and questions per second; runs alternate, so other work on the machine affects both alike.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import queue
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vfindex.search.engine import SearchEngine
from vfindex.search.service import SearchService
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.records import Clip, Document, Location, Segment, UnitPlan, UnitResult, Video
from vfindex.storage.writer import Writer, writing

WORDS = (
    *("house", "river", "music", "school", "game", "fire", "city", "water", "church", "king", "door"),
    *("night", "horse", "dog", "man", "car", "tree", "boat", "train", "sea"),
)
QUESTIONS = [f"a {one} and a {other}" for one, other in itertools.permutations(WORDS, 2)]
GENERATIONS, COPIED = 3, 4
PROCESSES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a service under many threads.")
    parser.add_argument("library", type=Path)
    parser.add_argument("--questions", type=int, default=2000, help="in all (default: 2000)")
    parser.add_argument("--clients", type=int, default=8, help="threads (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="of the latencies (default: 3)")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_mib(arguments.library, arguments.peak, arguments.questions))
        return
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.questions} questions; {arguments.library}"
    )
    _changes(arguments.library, arguments.questions, arguments.clients)
    _memory(arguments.library, arguments.questions, arguments.clients)
    _latency(arguments.library, arguments.questions, arguments.clients, arguments.rounds)


def _answer(engine: SearchEngine | SearchService, text: str) -> tuple[Any, ...]:
    return tuple((hit.key, round(hit.score, 4), hit.start_s, hit.end_s) for hit in engine.search(text))


# --- changes --------------------------------------------------------------------------------------------------------


def _changes(library: Path, questions: int, clients: int) -> None:
    texts = QUESTIONS[:20]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "library"
        shutil.copytree(library, folder)
        states: dict[str, set[tuple[Any, ...]]] = {text: set() for text in texts}

        def note() -> None:
            engine = SearchEngine.open(folder)
            for text in texts:
                states[text].add(_answer(engine, text))
            engine.close()

        note()
        done, failures = threading.Event(), []

        def ask(number: int) -> list[tuple[str, Any]]:
            found: list[tuple[str, Any]] = []
            while len(found) < questions // clients or not done.is_set():
                text = texts[(number + len(found)) % len(texts)]
                try:
                    found.append((text, _answer(service, text)))
                except Exception as exc:  # noqa: BLE001  any failure counts
                    failures.append(exc)
                    break
            return found

        with SearchService(folder) as service, ThreadPoolExecutor(clients) as pool:
            asked = [pool.submit(ask, number) for number in range(clients)]
            for generation in range(GENERATIONS):
                with writing(folder) as writer:
                    for number in range(COPIED):
                        _copy_video(writer, generation * COPIED + number)
                        note()  # each commit is a state
                    writer.publish()
                    note()
            done.set()
            found = [each for future in asked for each in future.result()]
            last = [text for text in texts if _answer(service, text) != _answer(SearchEngine.open(folder), text)]
    wrong = [text for text, answer in found if answer not in states[text]]
    print(
        f"changes: {len(found)} answers of {clients} threads during {GENERATIONS} generations, {len(failures)} failures"
    )
    print(f"changes: {len(wrong)} answers of no state, {len(last)} unlike a fresh engine's at the end")
    if failures or wrong or last:
        print(*failures[:3], *wrong[:3], sep="\n")
        sys.exit(1)


def _copy_video(writer: Writer, number: int) -> None:
    """Commit a copy of one of the library's videos under a new name, with other vectors near its own."""
    random = np.random.default_rng(number)
    with writer.library.snapshot() as snapshot:
        ids = snapshot.video_ids()
        stored = snapshot.videos([ids[number % len(ids)]])[0]
        clips = snapshot.with_vectors([clip.id for clip in snapshot.clips_of(stored.id)])
        said = snapshot.segments(stored.id)

    def moved(rows: Any) -> Any:
        noisy = rows + 0.02 * random.normal(size=rows.shape)
        return np.asarray(noisy / np.linalg.norm(noisy, axis=-1, keepdims=True), np.float32)

    made = [
        Clip(
            clip.start_s,
            clip.end_s,
            0.0,
            {m: moved(vector) for m, vector in vectors.embeddings.items()},
            moved(vectors.frames) if len(vectors.frames) else vectors.frames,
            vectors.frame_times_s,
        )
        for clip, vectors in clips.values()
    ]
    _add(writer, stored, f"copy-{number}", made, said)


def _add(writer: Writer, stored: StoredVideo, name: str, clips: Sequence[Clip], said: Sequence[Segment]) -> None:
    video = Video(**{field.name: getattr(stored, field.name) for field in fields(Video)})
    video_id = writer.catalog.begin_video(replace(video, fingerprint=name), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(video_id)
    writer.commit_unit(video_id, name, unit_id, UnitResult(tuple(clips), tuple(said)))
    place = Location(f"/copies/{name}.mp4".encode(), stored.size_bytes, 1, 1)
    writer.catalog.finish_video(video_id, place, [Document("title", name)])


# --- memory ---------------------------------------------------------------------------------------------------------


def peak_mib(library: Path, threads: int, questions: int) -> float:
    """Return the peak resident memory of this process after `questions` by `threads`."""
    with SearchService(library) as service, ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda text: len(service.search(text)), itertools.islice(itertools.cycle(QUESTIONS), questions)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _memory(library: Path, questions: int, clients: int) -> None:
    peaks = [
        float(
            subprocess.run(
                [sys.executable, __file__, str(library), "--questions", str(questions // 4), "--peak", str(threads)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for threads in (1, clients)
    ]
    print(f"memory: 1 thread {peaks[0]:.0f} MiB, {clients} threads {peaks[1]:.0f} MiB, {peaks[1] / peaks[0]:.2f} times")


# --- latency --------------------------------------------------------------------------------------------------------


def _latency(library: Path, questions: int, clients: int, rounds: int) -> None:
    ratios = []
    for _ in range(rounds):
        threads, threads_s = _of_threads(library, questions // 4, clients)
        processes, processes_s = _of_processes(library, questions // 4, clients)
        ratios.append(statistics.median(threads) / statistics.median(processes))
        for name, taken, whole_s in (("threads", threads, threads_s), ("processes", processes, processes_s)):
            p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[-1]
            print(f"latency of {clients} clients, {name:10} p50 {1000 * p50:6.1f} ms  p99 {1000 * p99:6.1f} ms", end="")
            print(f"  {len(taken) / whole_s:5.1f} questions/s")
    print(f"latency: p50 of one service {statistics.median(ratios):.2f} times that of {PROCESSES} processes")


def _ask_all(ask: Callable[[int, str], object], questions: int, clients: int) -> tuple[list[float], float]:
    """Return the seconds of each question by `clients` that ask one after another, and of all."""
    texts: queue.SimpleQueue[str] = queue.SimpleQueue()
    for text in itertools.islice(itertools.cycle(QUESTIONS), questions):
        texts.put(text)

    def client(number: int) -> list[float]:
        taken = []
        while True:
            try:
                text = texts.get_nowait()
            except queue.Empty:
                return taken
            start = time.perf_counter()
            ask(number, text)
            taken.append(time.perf_counter() - start)

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        each = [second for part in pool.map(client, range(clients)) for second in part]
    return each, time.perf_counter() - start


def _of_threads(library: Path, questions: int, clients: int) -> tuple[list[float], float]:
    with SearchService(library) as service:

        def ask(_: int, text: str) -> None:
            service.search(text)

        _ask_all(ask, 2 * clients, clients)
        return _ask_all(ask, questions, clients)


def _serve(library: Path, asked: Any, answered: Sequence[Any]) -> None:
    """Answer questions in their order, one at a time. asked: (client, text), or None to end."""
    engine = SearchEngine.open(library)
    while (question := asked.get()) is not None:
        client, text = question
        answered[client].put(len(engine.search(text)))


def _of_processes(library: Path, questions: int, clients: int) -> tuple[list[float], float]:
    context = multiprocessing.get_context("spawn")
    asked = [context.SimpleQueue() for _ in range(PROCESSES)]
    answered = [context.SimpleQueue() for _ in range(clients)]
    workers = [context.Process(target=_serve, args=(library, each, answered)) for each in asked]
    for worker in workers:
        worker.start()

    def ask(client: int, text: str) -> None:
        asked[client % PROCESSES].put((client, text))
        answered[client].get()

    try:
        _ask_all(ask, 2 * clients, clients)
        return _ask_all(ask, questions, clients)
    finally:
        for each in asked:
            each.put(None)
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main()
