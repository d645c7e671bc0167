"""The hardware and the libraries of this machine: processor, GPUs, SQLite, PyAV. Imports neither torch nor av."""

from __future__ import annotations

import ctypes
import json
import logging
import re
import sqlite3
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vfindex.indexer.media.child import Child, cannot_start
from vfindex.indexer.media.limits import child_environment
from vfindex.storage.errors import ModelError, VfindexError
from vfindex.storage.machine import kernel_file, processor_flags, usable_cores

logger = logging.getLogger(__name__)

ANSWER_S = 60.0  # for a child process; the first import of a library from a cold disk takes some seconds
# Name of a feature -> the flag of Linux's /proc/cpuinfo. Larger models gain by bfloat16, Whisper by VNNI.
_FEATURES = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX-VNNI": "avx_vnni",
    "AVX512-VNNI": "avx512_vnni",
    "AVX512-BF16": "avx512_bf16",
    "AMX-BF16": "amx_bf16",
}
BFLOAT16 = frozenset({"AVX512-BF16", "AMX-BF16"})
_MEDIA = "import av, json; print(json.dumps([av.__version__, av.ffmpeg_version_info]))"
_CUDA = "from vfindex.indexer.models.hardware import print_cuda_devices; print_cuda_devices()"
# CUresult of cuInit where there is no GPU to use: CUDA_ERROR_NO_DEVICE, CUDA_ERROR_STUB_LIBRARY.
_NO_GPU = (100, 34)


@dataclass(frozen=True, slots=True)
class Processor:
    """name: "" where the platform does not say. cores: `usable_cores`. features: of _FEATURES."""

    name: str
    cores: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device. driver: its version, "" where the system does not say."""

    name: str
    memory_bytes: int
    driver: str


def processor() -> Processor:
    """Return the processor as /proc/cpuinfo describes it."""
    text = kernel_file("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    known = processor_flags()
    features = tuple(feature for feature, flag in _FEATURES.items() if flag in known)
    return Processor(name[1].strip() if name else "", usable_cores(), features)


def devices() -> list[Gpu]:
    """Return the CUDA devices of this process, those of CUDA_VISIBLE_DEVICES where it is set; asked once per process.

    The only place that looks for GPUs. Raises VfindexError if the driver fails.
    """
    found = _devices()
    if isinstance(found, VfindexError):
        raise found
    return list(found)


@cache
def _devices() -> tuple[Gpu, ...] | VfindexError:
    """Ask the CUDA driver in a child process: it may hang, and a process that has opened it must not fork."""
    try:
        rows = json.loads(_ask(_CUDA, "the CUDA driver"))
    except VfindexError as exc:
        return exc
    found = re.search(r"Kernel Module\D*([\d.]+)", kernel_file("/proc/driver/nvidia/version"))
    return tuple(Gpu(name, size_bytes, found[1] if found else "") for name, size_bytes in rows)


def print_cuda_devices() -> None:
    """Print [name, memory in bytes] of each CUDA device as JSON. Exits with a sentence if the driver fails."""
    try:
        found = cuda_devices(ctypes.CDLL("libcuda.so.1"))
    except OSError:
        found = []
    sys.stdout.write(json.dumps(found))


def cuda_devices(driver: Any) -> list[tuple[str, int]]:
    """Return (name, memory in bytes) of each device. driver: libcuda, https://docs.nvidia.com/cuda/cuda-driver-api."""
    status = driver.cuInit(0)
    if status in _NO_GPU:
        return []
    _check(status)
    count, found = ctypes.c_int(), []
    _check(driver.cuDeviceGetCount(ctypes.pointer(count)))
    for index in range(count.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        _check(driver.cuDeviceGet(ctypes.pointer(device), index))
        _check(driver.cuDeviceGetName(name, len(name), device))
        _check(driver.cuDeviceTotalMem_v2(ctypes.pointer(size), device))
        found.append((name.value.decode("utf-8", "replace"), size.value))
    return found


def _check(status: int) -> None:
    """status: a CUresult, 0 for success."""
    if status:
        sys.exit(f"CUDA error {status}; run nvidia-smi to see whether the driver works")


def usable_devices() -> list[Gpu]:
    """Return `devices()`, none if the driver fails, which is logged."""
    try:
        return devices()
    except VfindexError as exc:
        logger.warning("the GPU is not used: %s", exc)
        return []


def has_cuda() -> bool:
    """Return whether torch can use a GPU here, without importing it."""
    return bool(usable_devices()) and torch_without_cuda() is None


def torch_without_cuda() -> str | None:
    """Return the version of torch if it was built without CUDA, else None."""
    try:
        installed = version("torch")
    except PackageNotFoundError as exc:
        raise ModelError("torch is not installed; run: pip install torch") from exc
    return installed if installed.endswith("+cpu") else None


def media_versions() -> tuple[str, str]:
    """Return the versions of PyAV and of its FFmpeg, asked in a child process. Raises VfindexError."""
    pyav, ffmpeg = json.loads(_ask(_MEDIA, "PyAV"))
    return str(pyav), str(ffmpeg)


def sqlite_version() -> str:
    """Return SQLite's version. Raises VfindexError if it was built without full text search."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
    except sqlite3.OperationalError as exc:
        raise VfindexError(
            f"SQLite {sqlite3.sqlite_version} has no full text search (FTS5); take a Python from python.org"
        ) from exc
    finally:
        connection.close()
    return sqlite3.sqlite_version


def _ask(code: str, name: str) -> str:
    """Return what Python code prints in a child process. Raises VfindexError with its last line if it fails."""
    printed = bytearray()
    try:
        started = Child([sys.executable, "-P", "-c", code], environment=child_environment("CUDA_", "NVIDIA_"))
    except OSError as exc:
        raise VfindexError(f"{name} cannot be asked: {cannot_start(exc)}") from exc
    with started as child:
        child.start_clock(wall_s=ANSWER_S)
        try:
            while chunk := child.read():
                printed += chunk
        except TimeoutError as exc:
            raise VfindexError(f"{name} does not answer within {ANSWER_S:.0f} s") from exc
        death = child.death()
    if death.status != 0:
        raise VfindexError(f"{name} failed: {death.reason}")
    return printed.decode("utf-8", "replace").strip()
