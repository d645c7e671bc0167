"""Pulls from a hub on 127.0.0.1 by the real client: resumed, checked, and ended in one sentence."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import start
from fake_hub import COMMIT, Hub, sentence_files, serving
from filelock import FileLock

from vfindex.indexer.models.catalog import find_card
from vfindex.indexer.models.hub import Progress, pull
from vfindex.indexer.models.hub_child import WRITE_BYTES
from vfindex.indexer.models.store import are_present, locate, read_manifest
from vfindex.storage.errors import ModelError

NAME = "tiny/sentences"
CARD = find_card("text", NAME)
NEEDED = {"modules.json", "config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(Hub({NAME: sentence_files()})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_pulled_model_is_complete_and_pinned(hub: Hub, tmp_path: Path) -> None:
    heard: list[Progress] = []
    model, fetched = pull(CARD, tmp_path, progress=heard.append)
    assert fetched
    assert model == locate("text", NAME, tmp_path)
    assert files_below(model.folder) == NEEDED | {"vfindex.json"}
    assert model.weights.read_bytes() == sentence_files()["model.safetensors"]
    manifest = read_manifest(CARD, tmp_path)
    assert manifest is not None
    assert (manifest.repository, manifest.revision, manifest.pulled) == (NAME, COMMIT, True)
    assert set(manifest.files) == NEEDED
    assert heard[-1].done_bytes == heard[-1].total_bytes == sum(len(sentence_files()[name]) for name in NEEDED)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        model.folder.name,
        f".pull-{model.folder.name}.lock",
    }
    (model.folder / "tokenizer_config.json").write_text("{}")  # an added file that changes the vectors
    assert locate("text", NAME, tmp_path).sha256 != model.sha256
    os.remove(model.folder / "tokenizer_config.json")
    asked = len(hub.requests)
    assert pull(CARD, tmp_path) == (model, False)
    assert len(hub.requests) == asked


def test_a_stalled_pull_times_out_and_resumes(hub: Hub, tmp_path: Path) -> None:
    hub.cut = "model.safetensors"
    began_s = time.monotonic()
    with pytest.raises(ModelError, match=r"no answer for 2 s about model.safetensors; try again, .* --preset lite"):
        pull(CARD, tmp_path, timeout_s=2)
    assert time.monotonic() - began_s < 30
    assert not are_present({"text": NAME}, tmp_path)
    hub.cut = ""
    hub.requests.clear()
    pull(CARD, tmp_path)
    half = len(sentence_files()["model.safetensors"]) // 2
    assert hub.requests[-1] == (
        f"/{NAME}/resolve/{COMMIT}/model.safetensors",
        f"bytes={half - half % WRITE_BYTES}-",
    )
    assert len([path for path, _ in hub.requests if "resolve" in path]) == 1
    assert are_present({"text": NAME}, tmp_path)


def test_a_broken_connection_is_resumed(hub: Hub, tmp_path: Path) -> None:
    hub.drop = "model.safetensors"
    model, _ = pull(CARD, tmp_path)
    assert model.weights.read_bytes() == sentence_files()["model.safetensors"]
    ranges = [asked for path, asked in hub.requests if path.endswith("model.safetensors")]
    assert ranges[0] == ""
    assert re.fullmatch(r"bytes=[1-9]\d+-", ranges[1])


def test_one_process_downloads_a_model(hub: Hub, tmp_path: Path) -> None:
    lock = tmp_path / "models" / f".pull-{CARD.slug}.lock"
    lock.parent.mkdir()
    with FileLock(lock), pytest.raises(ModelError, match=f"another process is downloading {NAME}; wait for it"):
        pull(CARD, tmp_path)
    assert hub.requests == []


def test_a_hub_that_never_answers_times_out(hub: Hub, tmp_path: Path) -> None:
    hub.hang = "/api/models/"
    host = hub.address.removeprefix("http://")
    with pytest.raises(ModelError) as caught:
        pull(CARD, tmp_path, timeout_s=1)
    said = str(caught.value)
    assert said.startswith(f"the model {NAME} could not be downloaded from {host}: ")
    assert str(tmp_path / "models" / CARD.slug) in said
    assert "--preset lite" in said


def test_a_refused_connection_is_reported(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"from 127\.0\.0\.1:9: ConnectError: .*; try again; or put its files into"):
        pull(CARD, tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("RepoNotFound", f"there is no repository {NAME}, or it needs a login; check the name"),
        ("RevisionNotFound", f"{NAME} has no revision {'f' * 40}; look up"),
        ("GatedRepo", f"{NAME} is gated; request access on its page"),
    ],
)
def test_a_missing_or_gated_repository_is_reported(hub: Hub, tmp_path: Path, code: str, said: str) -> None:
    hub.missing = code
    with pytest.raises(ModelError) as caught:
        pull(replace(CARD, revision="f" * 40), tmp_path)
    assert said in str(caught.value)
    assert f"/api/models/{NAME}/revision/{'f' * 40}" in {path for path, _ in hub.requests}


def test_content_with_another_hash_is_refused(hub: Hub, tmp_path: Path) -> None:
    for spoilt in ("model.safetensors", "config.json"):  # the hub announces sha256 of the one, git's hash of the other
        hub.spoil = spoilt
        with pytest.raises(ModelError, match=f"the content of {spoilt} differs from the announced hash; try again"):
            pull(CARD, tmp_path / spoilt)
        assert not are_present({"text": NAME}, tmp_path / spoilt)


def test_a_damaged_model_is_repaired_from_its_commit(hub: Hub, tmp_path: Path) -> None:
    model, _ = pull(CARD, tmp_path)
    model.weights.write_bytes(b"spoilt")
    with pytest.raises(ModelError, match="has 6 bytes where 400,079 were pulled; run: vfindex models pull"):
        locate("text", NAME, tmp_path)
    hub.requests.clear()
    assert pull(CARD, tmp_path) == (model, True)
    assert [path.rpartition("/")[2] for path, _ in hub.requests] == [COMMIT, "model.safetensors"]
    assert pull(replace(CARD, revision=COMMIT), tmp_path) == (model, False)
    assert pull(replace(CARD, revision="f" * 40), tmp_path)[1]  # this version pins another commit
    assert f"/api/models/{NAME}/revision/{'f' * 40}" in {path for path, _ in hub.requests}


def test_a_changed_byte_is_repaired(hub: Hub, tmp_path: Path) -> None:
    model, _ = pull(CARD, tmp_path)
    status, spoilt = model.weights.stat(), bytearray(model.weights.read_bytes())
    spoilt[-1] ^= 1
    model.weights.write_bytes(spoilt)
    os.utime(model.weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert pull(CARD, tmp_path) == (model, True)
    assert model.weights.read_bytes() == sentence_files()["model.safetensors"]


def test_a_repository_without_weights_is_reported(hub: Hub, tmp_path: Path) -> None:
    del hub.repositories[NAME]["model.safetensors"], hub.repositories[NAME]["pytorch_model.bin"]
    with pytest.raises(ModelError, match=f"{NAME} has none of model.safetensors, "):
        pull(CARD, tmp_path)


def test_an_openai_checkpoint_must_have_its_hash(hub: Hub, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", b"x" * 3000)
    hub.repositories["files/whisper"] = {"base.pt": archive.getvalue()}
    sha256 = hashlib.sha256(archive.getvalue()).hexdigest()
    address = f"{hub.address}/files/whisper/resolve/main/base.pt"
    card = replace(find_card("speech", "openai-whisper:base"), repository=address, sha256={"base.pt": sha256})
    model, _ = pull(card, tmp_path)
    assert model.weights.read_bytes() == archive.getvalue()
    with pytest.raises(ModelError, match=r"content of base\.pt differs"):
        pull(replace(card, sha256={"base.pt": "0" * 64}), tmp_path / "other")


def test_a_full_disk_is_reported_before_the_download(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(ModelError, match=r"needs 0\.0 GB more in .* make room"):
        pull(CARD, tmp_path)


def test_ctrl_c_ends_a_pull_at_once(hub: Hub, tmp_path: Path) -> None:
    hub.hang = "/api/models/"
    process = start(tmp_path, "models", "pull", NAME)
    try:
        deadline_s = time.monotonic() + 60
        while not hub.requests and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert hub.requests
        # Python loses an interruption that falls into a finaliser; whoever waits presses again.
        while process.poll() is None and time.monotonic() < deadline_s:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=3)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, b"", b"")


def test_the_child_exits_with_its_parent(hub: Hub, tmp_path: Path) -> None:
    hub.hang = "/api/models/"
    request = {"kind": "text", "reference": NAME, "repository": NAME, "revision": None, "folder": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "vfindex.indexer.models.hub_child"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        assert b"host" in child.stdout.readline()
        child.stdin.close()
        assert child.wait(10) == 1
