"""Speech recognition of real videos: python tests/bench/speech.py [FOLDER] [--before PYTHON]

FOLDER: $VFINDEX_TEST_MEDIA/public/videos unless named. --before: the Python of an installation of vfindex with
PocketSphinx, which is measured as well.

For each recogniser, in a process of its own with one thread: the word error rate on the passages with a reference text,
the processor seconds per second of sound over these (opening excluded), and the segments that it writes over the videos
in which nobody speaks. Words are compared in lower case, without punctuation; numbers as they are written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vfindex.cli.options import cache_folder
from vfindex.indexer.models.catalog import find_card
from vfindex.indexer.models.export.packaged import ensure_model
from vfindex.indexer.models.presets import LITE_SPEECH, SPARE_SPEECH

SAMPLE_RATE_HZ = 16000


@dataclass(frozen=True)
class Passage:
    """What is said in a video from start_s on. All texts are in the public domain or known word for word."""

    video: str
    start_s: float
    text: str


PASSAGES = (
    Passage(
        "v003.mp4",
        20.5,
        "A spectre is haunting Europe, the spectre of communism. All the powers of old Europe have entered into a "
        "holy alliance to exorcise this spectre: Pope and Tsar, Metternich and Guizot, French Radicals and German "
        "police spies. Where is the party in opposition that has not been decried as communistic by its opponents "
        "in power? Where is the opposition that has not hurled back the branding reproach of communism, against "
        "the more advanced opposition parties, as well as against its reactionary adversaries? Two things result "
        "from this fact. One: Communism is already acknowledged by all European powers to be itself a power. Two: "
        "It is high time that Communists should openly, in the face of the whole world, publish their views, "
        "their aims, their tendencies, and meet this nursery tale of the spectre of communism with a manifesto of "
        "the party itself. To this end, Communists of various nationalities have assembled in London and sketched "
        "the following manifesto, to be published in the English, French, German, Italian, Flemish and Danish "
        "languages.",
    ),
    Passage(
        "v018.mp4",
        0.0,
        "This is the optical and science segment of the Webb Space Telescope in one of the largest clean rooms in the "
        "world at NASA's Goddard Space Flight Center in Greenbelt, Maryland.",
    ),
    Passage(
        "v054.mp4",
        0.0,
        "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country.",
    ),
)
# With talk or a song; in the other videos with sound nobody says a word.
SPOKEN = frozenset(f"v{number:03}" for number in (3, 16, 18, 27, 30, 52, 54, 57, 101, 102, 103, 104, 105, 106, 109))

WHISPER = """
from pathlib import Path
from vfindex.indexer.speech.backends import open_whisper
speech = open_whisper(Path(sys.argv[2]), threads=1, device="cpu")
"""
BEFORE = """
from vfindex.indexer.speech.transcribe import PocketSphinx
speech = PocketSphinx(1)
"""
# Prints [name, text, segments, processor seconds] of each sound in a folder; children count when they end.
PROGRAM = """
import json, resource, sys
import numpy as np
from vfindex.indexer.media.decoder import AudioBlock
{opening}
def spent():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)

rows, began = [], spent()
for name in json.loads(sys.argv[1]):
    sound, transcriber = np.load(name), speech.transcriber(())
    for at in range(0, len(sound), 4096):
        transcriber.feed(AudioBlock(at / 16000, sound[at:at + 4096]))
    said = transcriber.finish().segments
    rows.append([name, [segment.text for segment in said]])
speech.close()
print(json.dumps([rows, spent() - began]))
"""


def decoded(path: Path) -> NDArray[np.int16] | None:
    """Return the audio of a file, None if it has none."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def words(text: str) -> list[str]:
    """Return the words that are compared."""
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower().replace("specter", "spectre")).split()


def errors(reference: list[str], said: list[str]) -> int:
    """Return the least number of words to insert, delete or replace: the Levenshtein distance."""
    row = list(range(len(said) + 1))
    for n, word in enumerate(reference, start=1):
        before, row[0] = row[0], n
        for m, other in enumerate(said, start=1):
            before, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, before + (word != other))
    return row[-1]


def run(python: str, opening: str, names: list[str], model: str) -> tuple[dict[str, list[str]], float]:
    """Return the texts of sounds by name, and the processor seconds that they took."""
    program = PROGRAM.format(opening=opening)
    command = [python, "-P", "-c", program, json.dumps(names), model]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows, spent_s = json.loads(done.stdout.splitlines()[-1])
    return dict(rows), spent_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--before", metavar="PYTHON")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(os.environ["VFINDEX_TEST_MEDIA"]) / "public" / "videos"
    recognisers = {}
    for reference in (LITE_SPEECH, SPARE_SPEECH):
        found = ensure_model(find_card("speech", reference), cache_folder(), say=print)
        recognisers[reference] = (sys.executable, WHISPER, str(found.folder))
    if arguments.before:
        recognisers["PocketSphinx"] = (arguments.before, BEFORE, "")
    with tempfile.TemporaryDirectory() as place:
        spoken, length_s = {}, 0.0
        for n, passage in enumerate(PASSAGES):
            sound = decoded(folder / passage.video)
            if sound is None:
                raise SystemExit(f"{passage.video} has no sound")
            sound = sound[round(passage.start_s * SAMPLE_RATE_HZ) :]
            length_s += len(sound) / SAMPLE_RATE_HZ
            spoken[f"{place}/{n}.npy"] = passage
            np.save(f"{place}/{n}.npy", sound)
        mute = []
        for path in sorted(folder.iterdir()):
            sound = None if path.stem in SPOKEN else decoded(path)
            if sound is not None:
                mute.append(f"{place}/{path.stem}.npy")
                np.save(mute[-1], sound)
        print(f"{len(PASSAGES)} passages, {length_s:.0f} s; {len(mute)} videos with sound in which nobody speaks")
        print(f"load: {os.getloadavg()[0]:.1f}\n")
        print("| recogniser | word errors | by passage | CPU s per s of sound | segments where nobody speaks |")
        print("|---|---|---|---|---|")
        for name, (python, opening, model) in recognisers.items():
            texts, spent_s = run(python, opening, list(spoken), model)
            counts = [
                (errors(words(passage.text), words(" ".join(texts[path]))), len(words(passage.text)))
                for path, passage in spoken.items()
            ]
            rate = sum(wrong for wrong, _ in counts) / sum(n for _, n in counts)
            each = ", ".join(f"{wrong / n:.2f}" for wrong, n in counts)
            wrong, _ = run(python, opening, mute, model)
            invented = {Path(path).stem: said for path, said in wrong.items() if said}
            n_invented = sum(map(len, invented.values()))
            print(
                f"| {name} | {rate:.2f} | {each} | {spent_s / length_s:.3f} | {n_invented} in {len(invented)} videos |"
            )
            for video, said in invented.items():
                print(f"  {video}: {' / '.join(said)}", file=sys.stderr)


if __name__ == "__main__":
    main()
