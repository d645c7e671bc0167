"""The cases of `VFINDEX_TEST_MEDIA/cases`, each ingested alone, with the output of `show` and `search`.

shown = case("c05a_two_recordings_joined.ts").shown
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran, vfindex
from media import media_folder


@dataclass(frozen=True)
class Case:
    """A library of one case. path: of its video; report: of the run that made the library."""

    path: Path
    library: Path
    cache: Path
    ran: Ran

    def vfindex(self, *arguments: object) -> Ran:
        return vfindex(self.cache, *arguments, "--library", str(self.library))

    @cached_property
    def report(self) -> dict[str, Any]:
        return self.ran.document()

    @cached_property
    def shown(self) -> dict[str, Any]:
        """Return the document of `vfindex show --json`."""
        return self.vfindex("show", str(self.path), "--json").document()

    @property
    def transcript(self) -> str:
        return " ".join(segment["text"] for segment in self.shown["transcript"])

    def hits(self, *question: object) -> list[dict[str, Any]]:
        """Return the hits of `vfindex search`."""
        found: list[dict[str, Any]] = self.vfindex("search", *question, "--json").document()["hits"]
        return found


Ingest = Callable[..., Case]


def case_files(name: str) -> list[Path]:
    """Return a case's video or folder and its sidecars: the files whose names begin with the same case number."""
    folder = media_folder("cases")
    mark = name.split("_")[0].split(".")[0]
    return sorted(path for path in folder.iterdir() if path.name.split("_")[0].split(".")[0] == mark)


def ingest_case(cache: Path, folder: Path, name: str, *options: str) -> Case:
    """Copy a case with its sidecars into `folder`, ingest that alone; name: its video, relative to the cases."""
    source = folder / "videos"
    source.mkdir(parents=True)
    for path in case_files(name):
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, source / path.name)
    return ingest_folder(cache, source / name, source, folder / "library", *options)


def ingest_folder(cache: Path, video: Path, source: Path, library: Path, *options: str) -> Case:
    """Ingest the folder `source`, which contains `video`."""
    ran = vfindex(cache, "ingest", str(source), "--json", "--workers", "1", "--library", str(library), *options)
    assert "Traceback" not in ran.err, ran.err
    return Case(Path(os.path.realpath(video)), library, cache, ran)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Ingest:
    """Return a function video name -> Case; each case is ingested once per module."""
    made: dict[tuple[str, ...], Case] = {}

    def of(name: str, *options: str) -> Case:
        key = (name, *options)
        if key not in made:
            made[key] = ingest_case(models_cache, tmp_path_factory.mktemp("case"), name, *options)
        return made[key]

    return of
