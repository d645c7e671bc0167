"""`vfindex models` and `vfindex doctor`, with a hub on 127.0.0.1 and a simulated GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_hub import Hub, sentence_files, serving
from library_maker import SETUP, install, prior

from vfindex.cli.commands.models import _size
from vfindex.indexer.models import hardware as machine
from vfindex.indexer.models import packages
from vfindex.indexer.models.catalog import CARDS, MINILM_TOKENIZER, PACKAGE_FILES, find_card
from vfindex.indexer.models.export.packaged import ensure_model
from vfindex.indexer.models.packages import locate_package_file
from vfindex.indexer.models.presets import PRESETS, SPARE_SPEECH
from vfindex.indexer.models.store import locate
from vfindex.storage.errors import VfindexError
from vfindex.storage.files import file_systems
from vfindex.storage.meta import put_setup
from vfindex.storage.writer import writing

NAME = "tiny/sentences"


@pytest.fixture
def cache(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VFINDEX_LIBRARY", str(tmp_path / "library"))  # without a home there is no other place
    monkeypatch.setenv("VFINDEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "cache"


@pytest.fixture
def pulled(cache: Path) -> Path:
    """Return the folder of a model that was put there by hand."""
    folder = cache / "models" / "tiny--sentences"
    for name, data in sentence_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    locate("text", NAME, cache)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes the doctor most of its time: hashing the embedded models, another Python with PyAV."""
    monkeypatch.setattr(packages, "check_embedded", lambda *_: None)
    monkeypatch.setattr(machine, "media_versions", lambda: ("1", "2"))


def finding(run: Any, name: str, *arguments: object) -> dict[str, str]:
    """Return one of the doctor's findings."""
    document = json.loads(run("doctor", "--json", *arguments).out)
    assert document["healthy"] == all(row["state"] != "error" for row in document["findings"])
    [row] = [row for row in document["findings"] if row["name"] == name]
    return dict(row)


def test_the_list_fits_a_terminal_and_marks_installed_models(run: Any, pulled: Path) -> None:
    ran = run("models", "list")
    lines = ran.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last one names a folder, which may be as long as it likes
    for card in CARDS:
        [line] = [line for line in lines if line.split()[:2] == [card.kind, card.reference]]
        assert line.endswith("yes" if card.pinned_files else "no")
    assert any(line.split()[:2] == ["text", NAME] and line.endswith("yes") for line in lines)


def test_the_list_as_a_document(run: Any, pulled: Path, cache: Path) -> None:
    document = json.loads(run("models", "list", "--json").out)
    rows = {row["model"]: row for row in document["models"]}
    assert document["folder"] == str(cache / "models")
    assert rows["BAAI/bge-m3"]["presets"] == ["large", "multilingual"]
    assert rows["PE-Core-B-16:meta"]["gflop_per_frame"] == 35.6
    needed = ("modules.json", "config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors")
    assert rows[NAME]["size_bytes"] == sum((pulled / name).stat().st_size for name in needed)
    presets = {row["preset"]: row for row in document["presets"]}
    assert set(presets) == set(PRESETS)
    assert (presets["lite"]["here"], presets["lite"]["pull_bytes"]) == (True, 0)
    small = rows["ViT-B-32-256:datacomp_s34b_b86k"]["size_bytes"]
    assert (presets["small"]["here"], presets["small"]["pull_bytes"]) == (False, small)


def test_the_page_agrees_with_the_cards() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    for card in CARDS:
        [facts] = [row for row in rows if len(row) == 7 and row[0] == card.reference]
        unit = {"visual": " px", "text": " tokens", "speech": "", "audio": ""}[card.kind]
        reads = f"{card.input_size}{unit}" if card.input_size else ""
        described = [card.kind, card.licence, _size(card.size_bytes), str(card.dim or ""), reads, str(card.gflop or "")]
        assert facts[1:] == described
        if not card.package:
            [pin] = [row for row in rows if len(row) == 3 and row[0] == card.reference]
            repository = card.reference if pin[1] == "the same" else pin[1]
            assert (repository, pin[2]) == (card.repository, card.revision or "its first pull")


def test_a_model_is_pulled_once(run: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache / "models" / "tiny--sentences"
    with serving(Hub({NAME: sentence_files()})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        ran = run("models", "pull", NAME)
    assert (ran.code, ran.out) == (0, f"downloaded: {NAME} in {folder}\n")
    assert f"downloading {NAME}: model.safetensors (0 MB in all)\n" in ran.err
    ran = run("models", "pull", NAME, "--json")
    [row] = json.loads(ran.out)["models"]
    assert (row["model"], row["folder"], row["new"]) == (NAME, str(folder), False)
    assert run("models", "pull", "lite").out == "nothing to download: these models are part of installed packages\n"


def test_a_hub_out_of_reach_is_one_sentence(run: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    ran = run("models", "pull", "small", "--timeout", "2")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(
        "vfindex: the model ViT-B-32-256:datacomp_s34b_b86k could not be downloaded from 127.0.0.1:9"
    )
    assert ran.err.count("\n") == 1
    assert f"{cache}/models/ViT-B-32-256--datacomp_s34b_b86k by hand" in ran.err


@pytest.mark.parametrize("name", ["nonsense", "local-dir:x", "whisper-huge"])
def test_names_that_mean_no_model_are_wrong_usage(run: Any, cache: Path, name: str) -> None:
    for command in ("pull", "check"):
        ran = run("models", command, name)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert "presets are: lite, lite-multilingual, small" in ran.err


@pytest.mark.parametrize("name", ["", "missing", "file"])
def test_weights_are_added_from_a_folder_alone(run: Any, cache: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    ran = run("models", "add", name and tmp_path / name)
    assert (ran.code, ran.out) == (2, "")
    assert ("is empty; name a folder" if not name else "is no folder") in ran.err.replace("\n", " ")


def test_the_files_that_a_folder_lacks_are_named(run: Any, cache: Path, tmp_path: Path) -> None:
    shutil.copy(locate_package_file(MINILM_TOKENIZER, cache), tmp_path / "tokenizer.json")
    ran = run("models", "add", tmp_path)
    assert (ran.code, ran.out.count("\n")) == (0, 1)
    lacking = [file for file in PACKAGE_FILES if file != MINILM_TOKENIZER]
    assert ran.err.splitlines() == [f"not in {tmp_path}: {file.path} of {file.package}" for file in lacking]
    document = json.loads(run("models", "add", tmp_path, "--json").out)
    assert [row["file"] for row in document["added"]] == [MINILM_TOKENIZER.path]
    assert [row["file"] for row in document["missing"]] == [file.path for file in lacking]


def test_damage_is_found_by_a_check(run: Any, pulled: Path) -> None:
    ran = run("models", "check")
    assert ran.code == 0
    embedded = "efficientnet-lite2, all-MiniLM-L6-v2, multilingual-e5-small-q4"
    assert ran.out.startswith(f"clean: {embedded}, whisper-base, whisper-tiny.en, tiny/sentences")
    path = pulled / "model.safetensors"
    status, spoilt = path.stat(), bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.write_bytes(spoilt)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    ran = run("models", "check", NAME)
    assert (ran.code, ran.out) == (1, f"NOT clean: {NAME}\n")
    assert ran.err.startswith(f"problem: {path} is damaged: ")
    assert f"run: vfindex models pull {NAME}" in ran.err
    document = json.loads(run("models", "check", NAME, "--json").out)
    assert document["clean"] is False
    assert document["models"][0]["problem"]
    path.write_bytes(b"")
    assert json.loads(run("models", "check", "--json").out)["clean"] is False


def test_a_pull_repairs_what_a_check_finds_in_a_model_of_packages(run: Any, cache: Path) -> None:
    model = ensure_model(find_card("speech", SPARE_SPEECH), cache, say=print)
    status = model.weights.stat()
    with open(model.weights, "r+b") as file:
        file.seek(1000)
        file.write(bytes(8))
    os.utime(model.weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    ran = run("models", "check", SPARE_SPEECH)
    assert (ran.code, f"run: vfindex models pull {SPARE_SPEECH}" in ran.err) == (1, True)
    assert run("models", "pull", SPARE_SPEECH).code == 0
    assert run("models", "check", SPARE_SPEECH).code == 0


def test_the_doctor_finds_this_machine_fit(run: Any, cache: Path, tmp_path: Path) -> None:
    ran = run("doctor", "--library", tmp_path / "library")
    assert ran.code == 0
    heads = [line.split()[:2] for line in ran.out.splitlines() if not line.startswith(" ")]
    assert {name for _, name in heads} == {
        *("index", "ray", "ocr", "serve", "qdrant", "mcp", "follow", "processor", "memory", "gpu", "media"),
        *("sqlite", "lite", "models", "library", "disk", "cache"),
    }
    assert {state for state, _ in heads} <= {"ok", "warning"}
    assert "FFmpeg" in ran.out


def test_the_doctor_tells_of_gpus(quick: None, run: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "devices", lambda: [machine.Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, "550.54.15")])
    monkeypatch.setattr(machine, "version", lambda _: "2.9.0")
    row = finding(run, "gpu")
    assert (row["state"], row["text"]) == ("ok", "NVIDIA H100 80GB HBM3 with 86 GB, driver 550.54.15")
    assert finding(run, "processor")["state"] == "ok"
    monkeypatch.setattr(machine, "version", lambda _: "2.9.0+cpu")
    assert finding(run, "gpu")["state"] == "warning"

    def failing() -> list[machine.Gpu]:
        raise VfindexError("the CUDA driver failed: CUDA error 999")

    monkeypatch.setattr(machine, "devices", failing)
    row = finding(run, "gpu")
    assert (row["state"], row["text"]) == ("warning", "the CUDA driver failed: CUDA error 999")


def test_the_doctor_reports_what_prevents_an_ingest(
    quick: None, run: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> tuple[str, str]:
        raise VfindexError("python failed: ImportError: libX11.so.6; reinstall av")

    folder = tmp_path / "library"
    with monkeypatch.context() as patch:
        patch.setattr(machine, "media_versions", broken)
        assert run("doctor", "--library", folder).code == 1
        row = finding(run, "media", "--library", folder)
        assert (row["state"], row["next"]) == ("error", "reinstall av")
    with monkeypatch.context() as patch:
        patch.setattr(file_systems, "file_system", lambda _: "nfs4")
        row = finding(run, "library", "--library", folder)
        assert row["state"] == "error"
        assert "network file system (nfs4)" in row["text"]
    with monkeypatch.context() as patch:
        usage = type("Usage", (), {"free": 100_000_000})()
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        assert finding(run, "disk", "--library", folder)["state"] == "error"
    cache.write_text("a file", encoding="utf-8")
    row = finding(run, "cache")
    assert (row["state"], row["text"]) == ("error", f"{cache} is no folder")


def test_the_doctor_looks_at_the_library_s_models(quick: None, run: Any, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
    assert finding(run, "library", "--library", folder)["state"] == "ok"
    (cache / "models" / "whisper-small").mkdir(parents=True)
    row = finding(run, "models")
    assert (row["state"], row["next"]) == ("warning", "run: vfindex models pull whisper-small")


def test_the_doctor_names_the_package_that_the_library_s_models_lack(
    run: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "library"
    with writing(folder) as writer:
        setup = replace(SETUP, references={"visual": "efficientnet-lite2"})
        put_setup(writer.catalog, setup, {"visual": prior()})
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if "lite2" in name else found(name, package)
    )
    row = finding(run, "library", "--library", folder)
    assert row["state"] == "error"
    assert row["text"].endswith("is not installed")
    assert row["next"].startswith("run: pip install 'vfindex[lite]'")


@pytest.mark.parametrize("arguments", [("models", "list"), ("models", "--help"), ("doctor", "--help")])
def test_nothing_heavy_is_imported(
    python: Callable[..., subprocess.CompletedProcess[str]], cache: Path, arguments: tuple[str, ...]
) -> None:
    code = f"import sys; sys.argv = ['vfindex', *{arguments!r}]\n"
    code += "from vfindex.cli.app import main\ntry: main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    done = python(code, VFINDEX_CACHE=str(cache))
    assert done.returncode == 0
    assert not {"torch", "huggingface_hub", "open_clip", "faiss", "av", "onnxruntime"} & set(done.stderr.split())
