"""Detects truncated model files by their headers. Never reads the weights themselves, and unpickles nothing."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from vfindex.storage.files.regular import regular

# The format's own limit (safetensors, "Format"); real models have some 100 kB.
_MAX_HEADER_BYTES = 100_000_000
# Bounds the walk through a corrupt file.
_MAX_VARIABLES = 1_000_000
# CURRENT_BINARY_VERSION of CTranslate2's converters; other versions may have another layout.
_CTRANSLATE2_FORMAT = 6


def find_damage(path: Path) -> str | None:
    """Return the damage of a model file as a predicate ("is empty"), None if there is none. Raises OSError.

    Checks .json, .safetensors, torch's .bin and .pt (zip archives) and CTranslate2's model.bin; other files pass.
    """
    if not path.stat().st_size:
        return "is empty"
    with open(path, "rb", opener=regular) as file:
        if path.suffix == ".json":
            return _json(file)
        if path.suffix == ".safetensors":
            return _safetensors(file)
        if path.name == "model.bin":
            return _ctranslate2(file)
        if path.suffix in (".bin", ".pt"):
            # A zip archive ends with its directory, so a truncated one has none.
            return None if zipfile.is_zipfile(file) else "is truncated, or not a torch file"
    return None


def _json(file: BinaryIO) -> str | None:
    try:
        json.loads(file.read())
    except ValueError:
        return "is truncated, or not JSON"
    return None


def _safetensors(file: BinaryIO) -> str | None:
    size_bytes = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= _MAX_HEADER_BYTES:
        return "is truncated, or not a safetensors file"
    try:
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected_bytes = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "is truncated, or not a safetensors file"
    return None if size_bytes == expected_bytes else f"has {size_bytes:,} bytes, but its header says {expected_bytes:,}"


def _ctranslate2(file: BinaryIO) -> str | None:
    """Walk through the variables of a model (ctranslate2, python/ctranslate2/specs/model_spec.py, `_serialize`)."""
    size_bytes = os.fstat(file.fileno()).st_size

    def number(form: str) -> int:
        data = file.read(struct.calcsize(form))
        return int(struct.unpack(form, data)[0])

    try:
        if number("<I") != _CTRANSLATE2_FORMAT:
            return None  # CTranslate2 itself reports it
        file.seek(number("<H"), os.SEEK_CUR)  # architecture name
        number("<I")  # architecture revision
        for _ in range(min(number("<I"), _MAX_VARIABLES)):
            file.seek(number("<H"), os.SEEK_CUR)
            file.seek(4 * number("<B") + 1, os.SEEK_CUR)  # shape, dtype
            file.seek(number("<I"), os.SEEK_CUR)
        for _ in range(2 * min(number("<I"), _MAX_VARIABLES)):  # aliases: pairs of names
            file.seek(number("<H"), os.SEEK_CUR)
    except struct.error:
        return "is truncated, or not a CTranslate2 model"
    return None if file.tell() == size_bytes else "is truncated, or not a CTranslate2 model"
