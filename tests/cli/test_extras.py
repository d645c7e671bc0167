"""Search needs no library of an extra; a command that needs one names the extra to install."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from library_maker import DIM, SETUP, prior

from vfindex.cli import extras
from vfindex.storage.meta import put_setup
from vfindex.storage.writer import writing

ROOT = Path(__file__).resolve().parents[2]
Python = Callable[..., CompletedProcess[str]]
# Runs a command line in a Python that finds none of some libraries, even where they are installed.
COMMAND = """
import importlib.util, sys
from importlib.abc import MetaPathFinder

blocked, arguments = set({blocked!r}), {arguments!r}

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in blocked else found(name, package)
sys.meta_path.insert(0, Absent())
sys.argv = ["vfindex", *arguments]

import numpy
from vfindex.cli.app import main
from vfindex.search.query.encode import QueryEncoder

axis = numpy.eye({dim}, dtype=numpy.float32)[1]
QueryEncoder.encode = lambda *_, **__: {{"visual": axis, "speech": axis, "text": axis}}
main()
"""


def without(python: Python, names: tuple[str, ...], *arguments: object, **env: str) -> CompletedProcess[str]:
    """Run a command line where the libraries of some extras are not installed."""
    blocked = sorted({module for name in names for module in extras.EXTRAS[name].modules})
    return python(COMMAND.format(blocked=blocked, arguments=[*map(str, arguments)], dim=DIM), **env)


def test_the_table_of_extras_is_the_one_of_the_package() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    named = {
        name: {normalised(re.match(r"[\w-]+", each)[0]) for each in listed}  # type: ignore[index]
        for name, listed in project["optional-dependencies"].items()
    }
    brought = packages_distributions()
    for name, extra in extras.EXTRAS.items():
        assert {normalised(brought[module][0]) for module in extra.modules} == named[name]
    assert project["optional-dependencies"]["all"] == ["vfindex[index,ray,follow,ocr,serve,mcp,qdrant]"]
    assert named.keys() == {*extras.EXTRAS, "all", "test"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "dog"),
        ("status",),
        ("show", "/videos/a.mp4"),
        ("list",),
        ("verify",),
        ("rebuild",),
        ("remove", "/videos/a.mp4"),
        ("purge", "--now"),
        ("runs",),
        ("upgrade", "--discard"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_search_only_installation_reads_and_cleans_a_library(
    python: Python, library: Path, arguments: tuple[str, ...]
) -> None:
    done = without(python, (*extras.EXTRAS,), *arguments, "--library", library, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_the_doctor_of_a_search_only_installation_names_missing_extras(python: Python, library: Path) -> None:
    with writing(library) as writer:
        put_setup(writer.catalog, replace(SETUP, references={"visual": "efficientnet-lite2"}), {"visual": prior()})
    done = without(python, (*extras.EXTRAS,), "doctor", "--library", library, "--json")
    assert done.returncode == 0, done.stdout
    found = {row["name"]: row for row in json.loads(done.stdout)["findings"]}
    states = dict.fromkeys(extras.EXTRAS, "ok") | {"index": "warning"}
    assert {name: found[name]["state"] for name in extras.EXTRAS} == states
    for name, extra in extras.EXTRAS.items():
        assert found[name]["text"] == f"not installed: {extra.adds}"
        assert found[name]["next"] == f"to add it: pip install 'vfindex[{name}]'"
    assert found["library"]["state"] == "ok"
    assert not {"media", "gpu", "models"} & found.keys()


def test_a_search_only_installation_measures_answers(python: Python, library: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "dog", "relevant": [{"video": "a.mp4"}]}\n', encoding="utf-8")
    done = without(python, (*extras.EXTRAS,), "eval", queries, "--library", library, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["questions"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest", "."),
        ("reindex",),
        ("retry",),
        ("repair",),
        ("upgrade", "--preset", "lite"),
        ("demo",),
        ("verify", "--sample", "1"),
        ("models", "pull", "base"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_indexing_commands_name_the_missing_extra(python: Python, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = without(python, ("index",), *arguments, VFINDEX_LIBRARY=str(tmp_path / "library"))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"vfindex: indexing videos needs av, .*; run: pip install 'vfindex\[index\]'\n", done.stderr)


def test_serving_names_the_missing_extra(python: Python, library: Path) -> None:
    done = without(python, ("serve",), "serve", "--library", library)
    assert (done.returncode, done.stdout) == (1, "")
    needs = "jinja2, python_multipart, starlette and 1 more library, not installed here"
    assert done.stderr == f"vfindex: serving the search page needs {needs}; run: pip install 'vfindex[serve]'\n"


def test_tools_for_agents_name_the_missing_extra(python: Python, library: Path) -> None:
    done = without(python, ("mcp",), "mcp", "--library", library)
    needs = "offering tools to agents needs mcp, not installed here; run: pip install 'vfindex[mcp]'"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"vfindex: {needs}\n")


def test_ray_is_named_if_it_is_requested(python: Python, tmp_path: Path) -> None:
    for arguments in (("--runner", "ray"), ("--ray-address", "auto")):
        done = without(python, ("ray",), "ingest", ".", *arguments, "--library", tmp_path / "none")
        assert done.returncode == 1
        assert "run: pip install 'vfindex[ray]'" in done.stderr
    assert not (tmp_path / "none").exists()


def test_an_import_that_fails_on_the_way_is_named_too() -> None:
    assert "vfindex[index]" in (extras.missing_extra(ModuleNotFoundError("x", name="av.packet")) or "")
    assert extras.missing_extra(ModuleNotFoundError("x", name="somewhere")) is None
