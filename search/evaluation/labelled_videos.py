"""Readers of labelled videos: ours, UCF101, HMDB51 and Kinetics.

ours: a JSON object a line, {"video": "a.mp4", "label": "cooking"}. UCF101: a list of `Class/v_Class_g01.avi` a line,
or the folder of its lists. HMDB51: the folder of its three splits, `class_test_split1.txt` with `name.avi 2` for a
video of the test set. Kinetics: a csv with the columns label and youtube_id; files are named by the id, or by the id
and times.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.files.regular import read_file

SPLITS = (1, 2, 3)
MAX_BYTES = 256 << 20
_HMDB = re.compile(r"(?P<label>.+)_test_split(?P<split>\d)\.txt")
# In names of Kinetics' files, after the id.
TIMES = re.compile(r"_\d{6}_\d{6}$")
Part = Literal["test", "train"]
_PARTS: Mapping[Part, str] = {"test": "2", "train": "1"}  # in HMDB51; 0 is neither
_UCF_GROUP = re.compile(r"v_\w+_g\d+(?=_c\d+)")


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """A video and its class. stem: the name of its file, without folder and extension."""

    stem: str
    label: str

    @property
    def source(self) -> str:
        """What the video was cut from: UCF101's group, HMDB51's film, else the video itself.

        Videos of one source are alike, so they are never on both sides of a split.
        """
        film, found, _ = self.stem.partition(f"_{self.label.replace(' ', '_')}_")
        group = _UCF_GROUP.match(self.stem)
        return group[0] if group else film if found and film else self.stem


def read_labelled(path: Path, split: int | None = None, part: Part = "test") -> list[LabelledVideo]:
    """Return the videos of a file or folder, each once; the format is recognised by the content.

    split: of UCF101 and HMDB51, 1 to 3; None: the first. part: of a split. Raises QueryError with the file, UsageError
    for a split that there is not.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"the splits are {', '.join(map(str, SPLITS))}, not {split}")
    found = _folder(path, split or SPLITS[0], part) if path.is_dir() else list(_file(path, _text(path)))
    labels = {each.stem: each for each in found}
    if not labels:
        raise QueryError(f"{path} has no labelled videos; docs/evaluation.md shows the formats")
    return list(labels.values())


def _folder(folder: Path, split: int, part: Part) -> list[LabelledVideo]:
    """Return a part of a split of UCF101 or HMDB51."""
    ucf = folder / f"{part}list{split:02d}.txt"
    if ucf.exists():
        return list(_file(ucf, _text(ucf)))
    found = []
    for path in sorted(folder.glob(f"*_test_split{split}.txt")):
        match = _HMDB.fullmatch(path.name)
        for line in _text(path).splitlines() if match else ():
            name, _, number = line.strip().rpartition(" ")
            if name and match and number == _PARTS[part]:
                found.append(LabelledVideo(Path(name).stem, match["label"].replace("_", " ")))
    return found


def _file(path: Path, text: str) -> Iterator[LabelledVideo]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("{"):
        for number, line in enumerate(lines, start=1):
            try:
                data = json.loads(line)
                yield LabelledVideo(Path(_word(data["video"])).stem, _word(data["label"]))
            except (ValueError, TypeError, KeyError, RecursionError) as exc:
                raise QueryError(f'{path}, line {number}: it must be {{"video": "a.mp4", "label": "cooking"}}') from exc
    elif lines and {"label", "youtube_id"} <= set(lines[0].split(",")):
        for row in csv.DictReader(io.StringIO(text)):
            yield LabelledVideo(row["youtube_id"] or "", row["label"] or "")
    else:
        for number, line in enumerate(lines, start=1):
            label, slash, name = line.split()[0].partition("/")
            if not slash or not name:
                raise QueryError(f"{path}, line {number}: a list of UCF101 has Class/video.avi a line")
            yield LabelledVideo(Path(name).stem, _spaced(label))


def _spaced(name: str) -> str:
    """Return `ApplyEyeMakeup` as `apply eye makeup`: the words that a text model knows."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _word(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(value)
    return value


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise QueryError(f"{path} is too large for a list of labelled videos")
        return read_file(path).decode("utf-8-sig")
    except OSError as exc:
        raise QueryError(f"{path} cannot be read ({exc.strerror}); name a list of labelled videos") from exc
    except UnicodeDecodeError as exc:
        raise QueryError(f"{path} is not text; name a list of labelled videos") from exc


def label_of(stem: str, labels: dict[str, str]) -> str | None:
    """Return the label of a file by its name: the same, or that of Kinetics with the times, `id_000010_000020`."""
    return labels.get(stem, labels.get(TIMES.sub("", stem)))
