"""Rules of the project: imports between packages, homes of libraries, packaging, sizes, versions."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from vfindex import __version__ as VERSION

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "indexer", "search", "storage")
MAY_IMPORT = {
    "cli": {"cli", "indexer", "search", "storage"},
    "indexer": {"indexer", "storage"},
    "search": {"search", "storage"},
    "storage": {"storage"},
}
# Heavy libraries, and the only files that may import them.
HOMES = {
    "av": ("indexer/media/*.py", "indexer/playback/*.py", "cli/demo_media.py"),
    "charset_normalizer": ("indexer/speech/text_encoding.py",),
    "cv2": ("indexer/extractors/ocr.py",),
    "ctranslate2": ("indexer/speech/backends.py",),
    "faiss": ("storage/index/codes.py", "storage/index/flat.py", "storage/index/ivf_pq.py"),
    "faster_whisper": ("indexer/speech/backends.py",),
    "ir_measures": ("search/evaluation/metrics.py",),
    "ftfy": ("storage/encoders/cleaning.py", "indexer/speech/text_encoding.py"),
    "huggingface_hub": ("indexer/models/hub_child.py",),
    "jinja2": ("search/http/*.py",),
    "mcp": ("search/mcp/server.py",),
    "mcp_types": ("search/mcp/server.py",),
    "omegaconf": ("indexer/extractors/ocr.py",),
    "onnx": ("indexer/models/export/e5.py",),
    "onnxruntime": ("storage/encoders/*.py", "indexer/models/export/graph.py"),
    "onnxscript": (),
    "open_clip": ("indexer/models/export/open_clip.py", "indexer/models/hub_child.py", "indexer/models/image/*.py"),
    "opentimelineio": (),
    "rapidocr": ("indexer/extractors/ocr.py",),
    "qdrant_client": ("storage/qdrant/collection.py",),
    "ray": ("indexer/runners/ray.py",),
    "rich": ("cli/*.py",),
    "sentence_transformers": ("indexer/models/sentence.py",),
    "skimage": (),
    "sklearn": ("search/understanding/labelling/probe.py",),
    "sqlalchemy": ("storage/*.py",),
    "starlette": ("search/http/*.py", "search/mcp/server.py"),
    "timm": ("indexer/models/export/lite.py",),
    "tokenizers": ("storage/encoders/text.py", "indexer/models/export/*.py"),
    "subprocess": ("indexer/media/child.py",),
    "torch": ("indexer/models/*.py", "indexer/speech/backends.py"),
    "torchvision": (),
    "transformers": ("indexer/models/sound/clap.py", "indexer/models/export/clap.py"),
    "typer": ("cli/*.py",),
    "uvicorn": ("search/http/server.py",),
    "watchdog": ("indexer/scan/settling.py",),
    "whisper": ("indexer/speech/backends.py",),
}
UNKNOWN_TO_SEARCH = {
    "av",
    "cv2",
    "open_clip",
    "qdrant_client",
    "rapidocr",
    "ray",
    "sentence_transformers",
    "skimage",
    "sklearn",
    "timm",
    "torch",
    "torchvision",
    "transformers",
}
# What vfindex/__init__.py itself defines: for every package.
PACKAGE = ("__version__", "TELEMETRY_OFF")
MAX_LINES = 450
# The rooms of each package, top to bottom: a module imports only from rooms below it, or from its own.
ROOMS = {
    "cli": (
        *("entry", "app", "commands", "removal", "exports", "following", "run", "watches", "demo_media", "render"),
        *("started_run", "tokens", "last_search", "members", "options", "as_typed", "extras", "out_file", "output"),
        "suggested",
    ),
    "indexer": (
        *(
            "follow",
            "runs",
            "runners",
            "pipeline",
            "stills",
            "pictures",
            "playback",
            "extractors",
            "models",
            "speech",
            "media",
            "scan",
        ),
        *("boundary", "languages", "options"),
    ),
    "search": (
        *("evaluation", "http", "mcp", "service", "files", "user", "understanding"),
        *("libraries", "membership", "engine"),
        *("live", "remote", "export", "hits", "contents"),
        *("marks", "corrections", "playback", "stills", "status", "outline", "results"),
        *("calibration", "rank", "query"),
    ),
    "storage": (
        *(
            "maintenance",
            "writer",
            "publication",
            "next_index",
            "collections",
            "labels",
            "heads",
            "library",
            "settings_backup",
        ),
        *("qdrant", "index", "meta", "user", "migration", "db"),
        *("encoders", "text"),
        *("joint", "files", "state_cache", "ids", "records", "modalities", "threads", "machine", "errors", "package"),
    ),
}
MODULES_A_ROOM = range(3, 15)
ONE_A_COMMAND = "cli/commands"

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imports_in(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return the imports of a file, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the dotted names of all imports of a file, relative ones made absolute."""
    package = ["vfindex", *path.relative_to(ROOT).parent.parts]
    for node in imports_in(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_between_packages(path: Path) -> None:
    siblings = {name.split(".")[1] for name in imported_modules(path) if name.startswith("vfindex.")} - set(PACKAGE)
    assert siblings <= MAY_IMPORT[path.relative_to(ROOT).parts[0]]


def own_imports(path: Path) -> Iterator[tuple[int, Path]]:
    """Yield line and file of each import of a vfindex module, including those inside functions."""
    for node in imports_in(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vfindex."):
            base = ROOT.joinpath(*str(node.module).split(".")[1:])
            names = [base / alias.name for alias in node.names]
            for target in {name if name.with_suffix(".py").exists() else base for name in names}:
                if target.with_suffix(".py").exists():
                    yield node.lineno, target.with_suffix(".py")


@pytest.mark.parametrize("path", [path for path in SOURCES if path.stem != "__init__"], ids=relative)
def test_rooms_import_only_rooms_below_them(path: Path) -> None:
    package, room = path.relative_to(ROOT).with_suffix("").parts[:2]
    order = ROOMS[package]
    assert room in order, f"{relative(path)}: not one of the rooms of {package}/"
    upward = [
        f"{relative(path)}:{line}: imports {relative(target)}, which stands above"
        for line, target in own_imports(path)
        if target.relative_to(ROOT).parts[0] == package
        and order.index(target.relative_to(ROOT).with_suffix("").parts[1]) < order.index(room)
    ]
    assert not upward


def test_no_import_cycles() -> None:
    graph = {path: {target for _, target in own_imports(path)} for path in SOURCES if path.stem != "__init__"}
    while leaves := {path for path, targets in graph.items() if not targets & graph.keys()}:
        graph = {path: targets for path, targets in graph.items() if path not in leaves}
    while roots := graph.keys() - set().union(*graph.values()):  # modules that only lead into a circle
        graph = {path: targets for path, targets in graph.items() if path not in roots}
    assert not [
        f"{relative(path)}:{line}: imports {relative(target)}"
        for path in graph
        for line, target in own_imports(path)
        if target in graph
    ]


FOLDERS = sorted({path.parent for path in SOURCES if path.parent.parent != ROOT})


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_a_room_has_3_to_14_modules(folder: Path) -> None:
    modules = [path.name for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(modules) in MODULES_A_ROOM or relative(folder) == ONE_A_COMMAND, f"{relative(folder)}: {len(modules)}"
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{relative(folder)}/__init__.py: say what the room is for"
    assert len(tree.body) == 1, f"{relative(folder)}/__init__.py: its docstring is all that it holds"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_libraries_are_imported_only_in_their_own_files(path: Path) -> None:
    strays = {
        library
        for library in {name.split(".")[0] for name in imported_modules(path)} & HOMES.keys()
        if not any(fnmatch(relative(path), home) for home in HOMES[library])
    }
    assert not strays


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=relative)
def test_no_bare_import_makes_a_second_class(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported_modules(path)} & set(PACKAGES)


def test_search_starts_without_the_indexer_s_libraries() -> None:
    modules = [
        ".".join(("vfindex", *path.relative_to(ROOT).with_suffix("").parts))
        for path in SOURCES
        if relative(path).startswith("search/") and path.stem != "__init__"
    ]
    code = f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    loaded = set(done.stdout.split())
    assert set(modules) <= loaded
    assert not {name.split(".")[0] for name in loaded} & UNKNOWN_TO_SEARCH
    assert not {name for name in loaded if name.startswith(("vfindex.indexer", "vfindex.cli"))}


def test_importing_the_search_package_loads_nothing_else() -> None:
    code = "import sys, vfindex.search\nprint(*(name for name in sys.modules if name.startswith('vfindex')))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert set(done.stdout.split()) == {"vfindex", "vfindex.search"}


def test_public_names_of_search() -> None:
    import vfindex.search
    from vfindex.search import Hit, Like, Query, SearchEngine, SearchService
    from vfindex.search.engine import SearchEngine as Engine

    assert SearchEngine is Engine
    assert {each.__name__ for each in (Hit, Like, Query, SearchEngine, SearchService)} == set(vfindex.search.__all__)
    assert dir(vfindex.search) == sorted(vfindex.search.__all__)
    assert not hasattr(vfindex.search, "Searcher")


def test_every_folder_with_python_files_is_packaged() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    folders = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/__init__.py")}
    assert set(wheel["only-include"]) == folders == set(PACKAGES)
    assert wheel["sources"] == {folder: f"vfindex/{folder}" for folder in folders}
    assert wheel["force-include"]["storage/package.py"] == "vfindex/__init__.py"
    assert all((ROOT / folder / "py.typed").exists() for folder in folders)


def test_both_builds_of_faiss_begin_at_one_version() -> None:
    """An older one scans the lists of an index wrongly, or frees the filter of a search that is using it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    lowest = [each.partition(";")[0] for each in dependencies if each.startswith("faiss")]
    assert lowest == ["faiss-gpu>=1.14", "faiss-cpu>=1.14"]


def test_the_wheel_contains_one_package(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: pip install hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    [wheel] = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in files} == {"vfindex", f"vfindex-{VERSION}.dist-info"}
    assert {"vfindex/__init__.py", "vfindex/py.typed", "vfindex/indexer/models/sentences.txt"} <= set(files)
    assert "vfindex/storage/package.py" not in files
    code = (
        "import sys, vfindex\nfrom vfindex.search import SearchEngine\n"
        "print(vfindex.__version__, vfindex.__path__, SearchEngine.__module__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(wheel), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [VERSION, f"['{wheel}/vfindex']", "vfindex.search.engine"]


def test_the_changelog_has_the_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == VERSION or headings[:2] == ["Unreleased", VERSION]


def test_the_readme_has_the_two_set_up_commands() -> None:
    fences = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    first, second = (fence.strip() for fence in fences if fence.startswith("python3 -m venv "))
    assert first == "python3 -m venv .venv && .venv/bin/pip install '.[all,lite]' && .venv/bin/vfindex demo"
    assert second == "python3 -m venv .venv && .venv/bin/pip install '.[all,lite,test]' && .venv/bin/python -m pytest"


COUNTED = "clip|video|file|question|librarie|worker|unit|sidecar|segment|copie|title|model|folder|place|row"
PLURAL = re.compile(
    rf"(?<!/)\{{(?:len\([^{{}}]*\)|[a-z_.]+)(?::[^{{}}]*)?\}} (?:more |further |other )?(?:{COUNTED})s\b"
)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_numbers_of_things_are_counted(path: Path) -> None:
    """`1 clips` is avoided by `counted`."""
    assert not PLURAL.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=relative)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_no_path_of_a_developer_s_machine() -> None:
    texts = [
        *SOURCES,
        *TESTS,
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / ".ci" / "run",
    ]
    own_path = re.compile(r"(?<![\w.~*])/(?:root|work)/[\w.]")
    assert not [relative(path) for path in texts if own_path.search(path.read_text(encoding="utf-8"))]
