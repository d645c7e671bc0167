"""Mutated files: python tests/bench/fuzz.py [--media N] [--sidecars N] [--libraries N] [--from-library N] [--seed N]

Media and sidecars are ingested in batches, each with a valid control video that must be found; then the library must
verify. Damaged libraries are searched, inspected, verified, repaired, verified and searched again. No command may print
a traceback, hang, leave a process or temporary file, return a non-finite number, or give other answers than the
undamaged library while `verify` reports no damage. Prints each fault, and in the end `N media, N sidecars, N libraries,
N faults` and the largest process; exits with 1 after a fault. --keep: folder for inputs that cause a fault.
--from-library: earlier libraries are damaged, to keep the random state, but not tested.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))

from fuzzing import Machine, Ran, damage, mutated, mutated_text
from media import Shot, make_video

from vfindex.indexer.models.lite import ensure_lite
from vfindex.storage.library import Library

BATCH = 50
# A file that crashes its decoder is tried three times; most take a tenth of a second.
LIMIT_S_A_FILE, LIMIT_S = 20.0, 120.0
MAX_SEED_BYTES = 400_000
TOLERANCE_S = 0.5  # a cue may end with the last frame, which lasts
CONTROL = "the xylophone museum behind the red door"
QUESTIONS = (CONTROL, "a green field", "said:lighthouse")
Answer = list[tuple[str, float, float]]


@dataclass
class Bench:
    """The state of a run: counts and faults so far."""

    machine: Machine
    base: Path
    chance: random.Random
    keep: Path | None
    faults: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def record(self, what: str, faults: Sequence[str], culprit: Path | None = None) -> None:
        """Print faults, and copy the inputs that caused them."""
        for fault in faults:
            print(f"{what}: {fault}", flush=True)
        self.faults += len(faults)
        if faults and self.keep is not None and culprit is not None:
            self.keep.mkdir(exist_ok=True)
            shutil.copytree(culprit, self.keep / what.replace("/", "-").replace(" ", "-")[:80], dirs_exist_ok=True)

    def run(self, *arguments: object, files: int = 1) -> tuple[Ran, list[str]]:
        """Run a command; return how it ended, and its faults."""
        ran = self.machine.run(*arguments, limit_s=LIMIT_S + files * LIMIT_S_A_FILE)
        left = self.machine.leftovers()
        return ran, ran.faults(str(arguments[0])) + ([f"{arguments[0]} leaves {left} behind"] if left else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=int, default=1000)
    parser.add_argument("--sidecars", type=int, default=500)
    parser.add_argument("--libraries", type=int, default=200)
    parser.add_argument("--from-library", type=int, default=0, help="pass over the libraries before this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=os.environ.get("VFINDEX_CACHE"), help="exported models")
    parser.add_argument("--keep", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        cache = Path(arguments.cache or base / "cache")
        ensure_lite(cache)
        (base / "tmp").mkdir()
        bench = Bench(Machine(cache, base / "tmp" / "scratch"), base, random.Random(arguments.seed), arguments.keep)
        counts = {"media": arguments.media, "sidecars": arguments.sidecars, "libraries": arguments.libraries}
        fuzz_media(bench, counts["media"])
        fuzz_sidecars(bench, counts["sidecars"])
        fuzz_libraries(bench, counts["libraries"], arguments.from_library)
    for outcome, count in sorted(bench.outcomes.items()):
        print(f"{count:6} {outcome}")
    print(f"largest process {bench.machine.peak_bytes / 1e9:.2f} GB")
    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f", {bench.faults} faults")
    sys.exit(bench.faults > 0)


# --- media and sidecars ---------------------------------------------------------------------------------------------


def fuzz_media(bench: Bench, count: int) -> None:
    """Ingest this many mutated media files."""
    pool = [(path.suffix, path.read_bytes()) for path in _seeds(bench.base / "seeds")] if count else []
    for number, size in _batches(count):
        folder = bench.base / f"media{number}"
        folder.mkdir()
        for n in range(size):
            suffix, data = bench.chance.choice(pool)
            other = bench.chance.choice(pool)[1]
            (folder / f"{n:03d}{suffix}").write_bytes(mutated(data, bench.chance, other))
        _ingest_batch(bench, folder, size, ["--no-asr"] if number % 5 else [])


def _seeds(folder: Path) -> list[Path]:
    """Make a small video of each container, and add the small real ones of VFINDEX_TEST_MEDIA."""
    folder.mkdir()
    shots = [Shot("red", 1.0, to="yellow"), Shot("blue", 1.0)]
    text = {"text": [(0.2, 1.0, "the lighthouse keeper"), (1.1, 1.8, "rows in the storm")]}
    common: dict[str, Any] = {"shots": shots, "fps": 10, "tone_hz": 440}
    made = [
        make_video(folder / "a.mp4", **common, **text, tags={"title": "Boats", "comment": "at sea"}),
        make_video(folder / "b.mov", **common, rotation_deg=90),
        make_video(folder / "c.mkv", **common, **text, text_codec="subrip", tags={"title": "Storm"}),
        make_video(folder / "d.mkv", **common, **text, text_codec="ass"),
        make_video(folder / "e.avi", shots=shots, fps=10),
        make_video(folder / "f.ts", **common, codec="mpeg2video"),
        make_video(folder / "g.webm", **common, codec="libvpx"),
        make_video(folder / "h.mp4", **common, codec="libx264", b_frames=2),
    ]
    root = os.environ.get("VFINDEX_TEST_MEDIA")
    kinds = ("edge", "cases", "fuzz") if root else ()
    real = [path for kind in kinds for path in sorted((Path(str(root)) / kind).rglob("*")) if path.is_file()]
    videos = [path for path in real if path.suffix.lower() not in {".csv", ".jsonl", ".md", ".srt", ".vtt", ".json"}]
    return made + [path for path in videos if 0 < path.stat().st_size <= MAX_SEED_BYTES]


_SRT = "".join(
    f"{n + 1}\n00:00:00,{n}00 --> 00:00:01,{n}50\nThe lighthouse keeper of line {n} rows out.\n\n" for n in range(9)
)
_VTT = "WEBVTT\n\nNOTE made by hand\n\n" + _SRT.replace(",", ".").replace("keeper", "<v Anna>keeper</v>")
_ASS = (
    "[Script Info]\nScriptType: v4.00+\n\n[Events]\n"
    "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
) + "".join(
    f"Dialogue: 0,0:00:0{n}.10,0:00:0{n}.90,Default,Anna,0,0,0,,{{\\i1}}Line {n}\\Nrows out\n" for n in range(2)
)
_INFO = (
    '{"title": "Boats", "description": "<p>At <b>sea</b></p>",\n"tags": ["boat", "storm"],\n'
    '"upload_date": "20240102",\n"chapters": [{"start_time": 0, "end_time": 1, "title": "Out"},\n'
    '{"start_time": 1, "end_time": 2, "title": "Home"}]}'
)
_SIDECARS = ((".srt", _SRT), (".en.srt", _SRT), (".vtt", _VTT), (".ass", _ASS), (".info.json", _INFO))


def fuzz_sidecars(bench: Bench, count: int) -> None:
    """Ingest this many mutated sidecars, each with its own video, which must be indexed whatever the sidecar."""
    video = make_video(bench.base / "sea.mp4", shots=[Shot("green", 2.0)], fps=10).read_bytes() if count else b""
    for number, size in _batches(count):
        folder = bench.base / f"sidecars{number}"
        folder.mkdir()
        for n in range(size):
            # A box that players ignore gives each file its own fingerprint.
            (folder / f"{n:03d}.mp4").write_bytes(video + (16).to_bytes(4, "big") + b"free" + n.to_bytes(8, "big"))
            suffix, text = bench.chance.choice(_SIDECARS)
            (folder / f"{n:03d}{suffix}").write_bytes(mutated_text(text, bench.chance))
        report = _ingest_batch(bench, folder, size, ["--no-asr"])
        if report is not None and report["failed"]:
            bench.record(folder.name, [f"a sidecar costs its video: {row}" for row in report["failed"]], folder)


def _ingest_batch(bench: Bench, folder: Path, size: int, options: Sequence[str]) -> dict[str, Any] | None:
    """Ingest a folder with a control video in it; return the report, None without one."""
    control = make_video(folder / "control.mp4", shots=[Shot("red", 3.0), Shot("white", 3.0)], fps=10)
    control.with_suffix(".srt").write_text(f"1\n00:00:03,200 --> 00:00:05,500\nThis is {CONTROL}.\n", encoding="utf-8")
    library = bench.base / f"library-{folder.name}"
    ran, faults = bench.run("ingest", folder, "--library", library, "--json", *options, files=size)
    report: dict[str, Any] | None = None
    if ran.code in (0, 1) and not faults:
        report = ran.document()
        faults += _report_faults(report, size + 1)
        for how in ("indexed", "unchanged", "moved"):
            bench.outcomes[f"{folder.name.rstrip('0123456789')} {how}"] += report[how]
        for how in ("partial", "failed", "skipped"):
            for row in report[how]:
                bench.outcomes[f"{folder.name.rstrip('0123456789')} {how}: {row['code']}"] += 1
        faults += _control_faults(bench, library, control) + _library_faults(library)
        verified, more = bench.run("verify", "--library", library)
        faults += more + ([f"verify: {verified.out}{verified.err}"] if verified.code else [])
    bench.record(folder.name, faults, folder)
    shutil.rmtree(library, ignore_errors=True)
    shutil.rmtree(folder)
    return report


def _report_faults(report: dict[str, Any], files: int) -> list[str]:
    ended = sum(report[how] for how in ("indexed", "unchanged", "moved", "reworded", "coarse"))
    ended += sum(len(report[how]) for how in ("partial", "failed", "skipped"))
    faults = []
    if report["found"] != ended:
        faults.append(f"{report['found']} files found, {ended} ended")
    if report["found"] < files:
        faults.append(f"{report['found']} files found of {files}")
    if not math.isfinite(report["video_seconds"]) or report["video_seconds"] < 0:
        faults.append(f"{report['video_seconds']} s of video")
    return faults


def _control_faults(bench: Bench, library: Path, control: Path) -> list[str]:
    ran, faults = bench.run("search", CONTROL, "--library", library, "--json", "-k", "1")
    if faults:
        return faults
    hits = answer(ran)
    expected = [(os.fspath(control), 3.0, 6.0)]
    return [] if hits == expected else [f"the control is not found: {hits}"]


def _library_faults(library: Path) -> list[str]:
    """Return a fault per video, clip or segment with impossible times."""
    faults = []
    with Library.open(library).snapshot() as snapshot:
        ends = {}
        for video in snapshot.videos():
            ends[video.id] = video.end_s
            if not (math.isfinite(video.end_s) and 0 <= video.start_s <= video.end_s):
                faults.append(f"a video from {video.start_s} to {video.end_s} s")
            for segment in snapshot.segments(video.id):
                if not 0 <= segment.start_s < segment.end_s <= video.end_s + TOLERANCE_S:
                    faults.append(f"a segment from {segment.start_s} to {segment.end_s} of {video.end_s} s")
                if any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in segment.text):
                    faults.append(f"control characters in {segment.text!r}")
        for clip in snapshot.clips(snapshot.clip_ids()).values():
            if not (0 <= clip.start_s < clip.end_s and math.isfinite(clip.end_s)):
                faults.append(f"a clip from {clip.start_s} to {clip.end_s} s")
    return faults


# --- libraries ------------------------------------------------------------------------------------------------------


def fuzz_libraries(bench: Bench, count: int, first: int = 0) -> None:
    """Damage this many copies of one library, and repair them."""
    if not count:
        return
    sound = _sound_library(bench)
    expected = []
    for question in QUESTIONS:
        ran, faults = bench.run("search", question, "--library", sound, "--json")
        bench.record("the sound library", faults)
        expected.append(answer(ran))
    for number in range(count):
        copy = bench.base / "copy"
        shutil.copytree(sound, copy, copy_function=_linked)
        before = bench.base / "damaged"
        done = damage(copy, bench.chance)
        if number >= first:
            shutil.copytree(copy, before, copy_function=_linked)
            bench.record(f"library {number}, {done}", _damaged_faults(bench, copy, expected), before)
            shutil.rmtree(before)
        shutil.rmtree(copy)


def _linked(source: str, target: str) -> str:
    """Copy a file; link exported models, which are large."""
    if f"{os.sep}query{os.sep}" in source:
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


def _sound_library(bench: Bench) -> Path:
    folder = bench.base / "videos"
    folder.mkdir()
    said = {
        "red door": CONTROL,
        "blue hall": "the lighthouse keeper and his boat",
        "green hill": "nine sailors were carried home",
    }
    for name, sentence in said.items():
        colour = name.split()[0]
        path = make_video(folder / f"{name}.mp4", shots=[Shot(colour, 2.0), Shot("white", 2.0, to=colour)], fps=10)
        path.with_suffix(".srt").write_text(
            f"1\n00:00:00,500 --> 00:00:03,500\nThis is {sentence}.\n", encoding="utf-8"
        )
    library = bench.base / "sound"
    ran, faults = bench.run("ingest", folder, "--library", library, "--no-asr", files=len(said))
    bench.record("the sound library", faults + ([ran.err] if ran.code else []))
    return library


def _damaged_faults(bench: Bench, library: Path, expected: Sequence[Answer]) -> list[str]:
    faults = []
    answers, more = _asked(bench, library)
    faults += more
    for command in ("status", "runs"):
        faults += bench.run(command, "--library", library)[1]
    verified, more = bench.run("verify", "--library", library)
    faults += more
    wrong = [a for a, right in zip(answers, expected, strict=True) if a is not None and a != right]
    if verified.code == 0 and wrong:
        faults.append(f"verify says that all is well, and a question is answered {wrong[0]}")
    repaired, more = bench.run("repair", "--library", library, files=3)
    faults += more
    bench.outcomes[f"libraries: verify {verified.code}, repair {repaired.code}"] += 1
    if repaired.code == 0:
        again, more = bench.run("verify", "--library", library)
        faults += more + ([f"verify after repair: {again.out}{again.err}"] if again.code else [])
        answers, more = _asked(bench, library)
        faults += more
        if answers != list(expected):
            faults.append(f"after repair the answers are {answers}")
    elif not repaired.err.strip() and not repaired.out.strip():
        faults.append("repair fails without a word")
    return faults


def _asked(bench: Bench, library: Path) -> tuple[list[Answer | None], list[str]]:
    """Return the answers to the queries, None for a refused one, and the faults."""
    answers: list[Answer | None] = []
    faults = []
    for question in QUESTIONS:
        ran, more = bench.run("search", question, "--library", library, "--json")
        faults += more
        answers.append(answer(ran) if ran.code == 0 else None)
        odd: list[str] = []
        if ran.code == 0:
            json.loads(ran.out, parse_constant=odd.append)
        if odd:
            faults.append("a number that is not finite")
    return answers, faults


def answer(ran: Ran) -> Answer:
    """Return (path, start_s, end_s) of the hits."""
    return [(hit["video"], round(hit["start_s"], 2), round(hit["end_s"], 2)) for hit in ran.document()["hits"]]


def _batches(count: int) -> Iterator[tuple[int, int]]:
    """Yield (number, size) of batches."""
    for number, first in enumerate(range(0, count, BATCH)):
        yield number, min(BATCH, count - first)


if __name__ == "__main__":
    main()
