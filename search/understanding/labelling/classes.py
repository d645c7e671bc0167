"""Class files: names, descriptions and examples of the classes that `label` gives.

JSON: {"name": ..., "modalities": [...], "classes": [{"name": ..., "descriptions": [...], "examples": ["VIDEO@TIME"]}]};
a class may be its name alone, and the file a list of classes. Text: a name a line, `#` begins a comment, and
`#modalities: visual` names those that are compared. `kinetics-400` and `tone` come with vfindex.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from vfindex.storage.errors import UsageError
from vfindex.storage.files.regular import regular
from vfindex.storage.modalities import ModalityName, modality_names
from vfindex.storage.text.tokenizer import plain_words

# What "none of these" is called in results; no class may have this name.
NONE = "none"
MAX_BYTES, MAX_CLASSES, MAX_TEXTS, MAX_EXAMPLES, MAX_CHARS = 4 << 20, 2000, 50, 1000, 300
_BUILT_IN = {"kinetics-400": "kinetics-400.txt", "tone": "tone.json"}
_MODALITIES = "#modalities:"


@dataclass(frozen=True, slots=True)
class LabelClass:
    """A class. descriptions: texts that stand for it beside its name. examples: clips of it, as VIDEO@TIME."""

    name: str
    descriptions: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What is compared with the vectors of clips: the descriptions, or the name where there are none."""
        return self.descriptions or (self.name,)


@dataclass(frozen=True, slots=True)
class ClassSet:
    """Classes of which a clip is one, or none. modalities: the only ones compared; () for all."""

    name: str
    classes: tuple[LabelClass, ...]
    modalities: tuple[ModalityName, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.classes)


def read_classes(path: Path) -> ClassSet:
    """Return the classes of a file, or of the set of this name that comes with vfindex.

    Raises UsageError, with the file and what is wrong in it.
    """
    built_in = _BUILT_IN.get(str(path))
    source = Path(__file__).with_name(built_in) if built_in and not path.is_file() else path
    try:
        with open(source, "rb", opener=regular) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        known = ", ".join(_BUILT_IN)
        raise UsageError(f"{path} cannot be read ({exc.strerror}); give a file of classes, or one of: {known}") from exc
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES:,} bytes; a file of classes is smaller")
    try:
        return _checked(_parsed(data.decode("utf-8-sig"), path.stem))
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path} is not text in UTF-8; save it as UTF-8, or name a file of classes") from exc
    except (ValueError, TypeError, RecursionError) as exc:
        raise UsageError(f"{path} is no file of classes: {exc}; docs/label.md shows one") from exc


def set_name(path: Path) -> str:
    """Return the name of the set in a file; without such a file, the path is the name. Raises UsageError."""
    return read_classes(path).name if str(path) in _BUILT_IN or os.path.lexists(path) else str(path)


def _parsed(text: str, stem: str) -> ClassSet:
    if text.lstrip()[:1] in ("{", "["):
        data: Any = json.loads(text)
        data = {"classes": data} if isinstance(data, list) else data
        unknown = sorted(set(data) - {"name", "modalities", "classes"})
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no field of it")
        classes = tuple(_class(each) for each in _listed(data.get("classes"), "classes", MAX_CLASSES))
        modalities = _listed(data.get("modalities", []), "modalities", MAX_TEXTS)
        return ClassSet(_text(data.get("name", stem), "name"), classes, tuple(modalities))
    lines = [line.strip() for line in text.splitlines()]
    named = [line.removeprefix(_MODALITIES).split(",") for line in lines if line.startswith(_MODALITIES)]
    names = [line for line in lines if line and not line.startswith("#")]
    classes = tuple(LabelClass(_text(name, "name")) for name in _listed(names, "classes", MAX_CLASSES))
    return ClassSet(_text(stem, "name"), classes, _known(chain.from_iterable(named)))


def _class(data: Any) -> LabelClass:
    if isinstance(data, str):
        return LabelClass(_text(data, "name"))
    if not isinstance(data, dict) or not set(data) <= {"name", "descriptions", "examples"}:
        raise ValueError("a class is a name, or an object of name, descriptions and examples")
    texts = [_text(each, "description") for each in _listed(data.get("descriptions", []), "descriptions", MAX_TEXTS)]
    examples = [_text(each, "example") for each in _listed(data.get("examples", []), "examples", MAX_EXAMPLES)]
    return LabelClass(_text(data.get("name"), "name"), tuple(texts), tuple(examples))


def _listed(values: Any, what: str, most: int) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"{what} must be a list")
    if len(values) > most:
        raise ValueError(f"{what}: at most {most}, not {len(values)}")
    return values


def _text(value: Any, what: str) -> str:
    """Return one line of text. Raises ValueError for another value."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not plain_words(text) or not text.isprintable():
        raise ValueError(f"a {what} must be text with a word in it, not {value!r:.60}")
    if len(text) > MAX_CHARS:
        raise ValueError(f"a {what} has at most {MAX_CHARS} characters, not {len(text)}")
    return text


def _known(names: Iterable[Any]) -> tuple[ModalityName, ...]:
    """Return modalities by name. Raises ValueError."""
    wanted = [name.strip() if isinstance(name, str) else name for name in names]
    for name in wanted:
        if name not in modality_names():
            raise ValueError(f"there is no modality {name!r}; there are {', '.join(modality_names())}")
    return tuple(m for m in modality_names() if m in wanted)


def _checked(classes: ClassSet) -> ClassSet:
    """Return the set. Raises ValueError for one that cannot be told apart."""
    names = [plain_words(name) for name in classes.names]  # as `label:` compares them
    if len(names) < 2:
        raise ValueError("it needs two classes at least; what is of no class is none of these")
    for name, words in zip(classes.names, names, strict=True):
        if names.count(words) > 1:
            raise ValueError(f"two classes are called {name!r}; case, accents and punctuation do not count")
        if words == [NONE]:
            raise ValueError(f"no class can be called {name!r}: that is what is of no class")
    return ClassSet(classes.name, classes.classes, _known(classes.modalities))
