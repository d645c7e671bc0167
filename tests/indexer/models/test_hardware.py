"""The GPUs of a machine as the CUDA driver lists them."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vfindex.indexer.models import hardware
from vfindex.indexer.models.hardware import Gpu, cuda_devices, devices
from vfindex.storage.errors import VfindexError


class Driver:
    """A libcuda with two devices. status: what cuInit returns."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count.contents.value = 2
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device.contents.value = 10 + index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = f"GPU {device.value}".encode()
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size.contents.value = device.value << 30
        return 0


def test_a_driver_that_cannot_be_asked_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no process or handle left for the child that asks it."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(hardware, "Child", refuse)
    hardware._devices.cache_clear()
    try:
        with pytest.raises(VfindexError, match=r"^the CUDA driver cannot be asked: .* \(Too many open files\)"):
            devices()
        assert hardware.usable_devices() == []
    finally:
        hardware._devices.cache_clear()


def test_the_driver_lists_the_devices() -> None:
    assert cuda_devices(Driver()) == [("GPU 10", 10 << 30), ("GPU 11", 11 << 30)]
    assert cuda_devices(Driver(status=100)) == []
    with pytest.raises(SystemExit, match="CUDA error 999"):
        cuda_devices(Driver(status=999))


def test_devices_are_queried_once_and_a_failure_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def ask(code: str, name: str) -> str:
        calls.append(name)
        return '[["H100", 5]]'

    hardware._devices.cache_clear()
    monkeypatch.setattr(hardware, "_ask", ask)
    try:
        assert [(gpu.name, gpu.memory_bytes) for gpu in devices() + devices()] == [("H100", 5)] * 2
        assert calls == ["the CUDA driver"]
        hardware._devices.cache_clear()
        monkeypatch.undo()
        monkeypatch.setattr(hardware, "_CUDA", "raise SystemExit('CUDA error 999; run nvidia-smi')")
        for _ in range(2):
            with pytest.raises(VfindexError, match="the CUDA driver failed: CUDA error 999; run nvidia-smi"):
                devices()
        assert hardware.usable_devices() == []
    finally:
        hardware._devices.cache_clear()


def test_no_device_is_visible_if_all_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hardware._devices.cache_clear()
    try:
        assert devices() == []
    finally:
        hardware._devices.cache_clear()


def test_torch_without_cuda_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_devices", lambda: [Gpu("H100", 5, "550")])
    monkeypatch.setattr(hardware, "version", lambda _: "2.9.0+cpu")
    assert not hardware.has_cuda()
    monkeypatch.setattr(hardware, "version", lambda _: "2.9.0")
    assert hardware.has_cuda()
