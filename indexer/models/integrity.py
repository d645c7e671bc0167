"""Whether a file of a model is whole, told from the file itself: what a broken copy or download leaves is refused.

Reads headers, never weights, and unpickles nothing.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from vfindex.storage.files.regular import regular

# Headers of real models have some 100 kB; the format's own limit is 100 MB (safetensors, "Format").
_LONGEST_HEADER = 100_000_000
# CTranslate2's writer: 16 bits for the length of a name, 8 for the number of dimensions, 32 for each and for bytes.
_MOST_VARIABLES = 1_000_000
# What its converters write (CURRENT_BINARY_VERSION there); others may be laid out otherwise.
_CTRANSLATE2_FORMAT = 6


def flaw(path: Path) -> str | None:
    """Return what is wrong with a file of a model, None if nothing shows. Raises OSError if it cannot be read.

    Known are .json, .safetensors, .bin and .pt of torch (zip archives), and model.bin of CTranslate2; other files pass.
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
            # Archives end with their table of contents, so that a cut one has none.
            return None if zipfile.is_zipfile(file) else "is cut off, or no file of torch"
    return None


def _json(file: BinaryIO) -> str | None:
    try:
        json.loads(file.read())
    except ValueError:
        return "is cut off, or no JSON"
    return None


def _safetensors(file: BinaryIO) -> str | None:
    size_bytes = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= _LONGEST_HEADER:
        return "is cut off, or not in the format safetensors"
    try:
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "is cut off, or not in the format safetensors"
    return None if size_bytes == wanted else f"has {size_bytes:,} bytes, where its header says {wanted:,}"


def _ctranslate2(file: BinaryIO) -> str | None:
    """Walk over the variables of a model (ctranslate2, python/ctranslate2/specs/model_spec.py, `_serialize`)."""
    size_bytes = os.fstat(file.fileno()).st_size

    def number(form: str) -> int:
        data = file.read(struct.calcsize(form))
        return int(struct.unpack(form, data)[0])

    try:
        if number("<I") != _CTRANSLATE2_FORMAT:
            return None  # CTranslate2 itself will say
        file.seek(number("<H"), os.SEEK_CUR)  # the name of the architecture
        number("<I")  # its revision
        for _ in range(min(number("<I"), _MOST_VARIABLES)):
            file.seek(number("<H"), os.SEEK_CUR)
            file.seek(4 * number("<B") + 1, os.SEEK_CUR)  # dimensions, then the type
            file.seek(number("<I"), os.SEEK_CUR)
        for _ in range(2 * min(number("<I"), _MOST_VARIABLES)):  # further names: each of two texts
            file.seek(number("<H"), os.SEEK_CUR)
    except struct.error:
        return "is cut off, or no model of CTranslate2"
    return None if file.tell() == size_bytes else "is cut off, or no model of CTranslate2"
