"""A complete search with the library's text encoder imports no heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from library_maker import SETUP, add_video, clip, install, prior

from vfindex.indexer.models.lite import ensure_lite
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.records import QueryModel, Segment
from vfindex.storage.writer import writing

HEAVY = {"torch", "ray", "av", "timm", "transformers", "sentence_transformers", "skimage", "PIL"}
# What serves.
HEAVY |= {"starlette", "uvicorn", "jinja2", "anyio", "mcp"}
# Only a table in a terminal needs it.
NEEDLESS_IN_A_PIPE = {"rich"}
# What each took 5 to 30 ms of a cold search for nothing.
NEEDLESS = {"numpy.ma", "pydantic", "vfindex.search.contents", "vfindex.search.status"}
SEARCH = """
import atexit, gc, sys
from vfindex.cli.app import main
gc.callbacks.append(lambda phase, _: print("collection", phase, file=sys.stderr))
atexit.register(gc.callbacks.clear)
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
main()
"""


def make_library(folder: Path, model: Path) -> None:
    """Make a library of two spoken videos, encoded by the model in a folder."""
    encoder = TextEncoder.open(model)
    query = {m: QueryModel(model.name, ("{}", "{word}")) for m in SETUP.query}
    priors = {m: replace(prior(encoder.dim), background=encoder.encode(["something"])) for m in SETUP.query}
    none = np.zeros((0, encoder.dim), np.float32)
    with writing(folder) as writer:
        writer.install(replace(SETUP, query=query), priors, {model.name: model})
        for name, said in (("dog", "the dog runs in the park"), ("bread", "knead the dough and bake it")):
            spoken = replace(clip(speech=encoder.encode([said])[0]), frame_vectors=none)
            add_video(writer, name, [spoken], [Segment(0, 2, said, "sidecar")])
        writer.publish()


def test_a_search_imports_no_indexing_library(tmp_path: Path, models_cache: Path) -> None:
    make_library(tmp_path, ensure_lite(models_cache).text)
    command = [sys.executable, "-c", SEARCH, "search", "puppy in a garden", "--json", "--library", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    hits = json.loads(done.stdout)["hits"]
    assert [hit["video"] for hit in hits] == ["/videos/dog", "/videos/bread"]
    loaded = set(done.stderr.split())
    assert {"onnxruntime", "tokenizers", "vfindex.search.engine"} <= loaded, "the search was a whole one"
    assert not {name.split(".")[0] for name in loaded} & (HEAVY | NEEDLESS_IN_A_PIPE)
    assert not loaded & NEEDLESS
    assert "collection" not in loaded, "all objects of a search live until its end"
    assert not {name for name in loaded if name.startswith(("vfindex.indexer", "vfindex.storage.user.data"))}


@pytest.mark.parametrize("arguments", [("status",), ("list",), ("show", "/videos/dog")])
def test_a_report_imports_no_model_library(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "dog", [clip()])
        writer.publish()
    command = [sys.executable, "-c", SEARCH, *arguments, "--json", "--library", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert not loaded & (HEAVY | NEEDLESS_IN_A_PIPE | {"onnxruntime", "tokenizers"})


def test_help_does_not_import_numpy() -> None:
    command = [sys.executable, "-c", SEARCH, "search", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "vfindex.cli.commands.search" in done.stderr.split()
    assert "numpy" not in done.stderr.split()
