"""Parameters of tools as data: their JSON Schema, and the check of what an agent gives, with a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vfindex.search.query.values import is_number
from vfindex.storage.errors import UsageError

Kind = Literal["string", "integer", "number", "boolean", "array", "object"]
_WORDS = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter. least, most: bounds of a number, or of the length of a list or a text. default: None without one.

    items: of a list. fields: of an object.
    """

    name: str
    kind: Kind
    about: str = ""
    default: Any = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    items: Param | None = None
    fields: tuple[Param, ...] = ()

    def schema(self) -> dict[str, Any]:
        """Return its JSON Schema."""
        found: dict[str, Any] = {"type": self.kind}
        least, most = {
            "string": ("minLength", "maxLength"),
            "array": ("minItems", "maxItems"),
        }.get(self.kind, ("minimum", "maximum"))
        named = {
            "description": self.about or None,
            "default": self.default,
            "enum": list(self.choices) or None,
            least: self.least,
            most: self.most,
            "items": self.items.schema() if self.items else None,
        }
        found |= {name: value for name, value in named.items() if value is not None}
        return found | (object_schema(self.fields) if self.fields else {})

    def checked(self, given: Any) -> Any:
        """Return a value of the kind, within its bounds. Raises UsageError."""
        fits = {
            "string": isinstance(given, str),
            "integer": is_number(given) and given == int(given),
            "number": is_number(given),
            "boolean": isinstance(given, bool),
            "array": isinstance(given, list),
            "object": isinstance(given, Mapping),
        }[self.kind]
        size = given if is_number(given) else len(given) if isinstance(given, str | list) else None
        if fits and size is not None:
            fits = (self.least is None or size >= self.least) and (self.most is None or size <= self.most)
        if not fits or (self.choices and given not in self.choices):
            raise UsageError(f"{self.name} must be {self.words}, not {_shown(given)}")
        if self.items is not None:
            return [self.items.checked(each) for each in given]
        if self.fields:
            return values_of(given, self.fields, self.name)
        return int(given) if self.kind == "integer" else given

    @property
    def words(self) -> str:
        """What it takes, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.fields:
            return f"an object with {', '.join(each.name for each in self.fields)}"
        bounds = f" of {self.least or 0:,.0f} to {self.most:,.0f}" if self.most is not None else ""
        if self.kind == "array":
            return f"a list{bounds} values"
        return f"{_WORDS[self.kind]}{bounds}{' characters' if bounds and self.kind == 'string' else ''}"


def object_schema(params: Sequence[Param]) -> dict[str, Any]:
    """Return the JSON Schema of an object with these parameters and no others."""
    return {
        "type": "object",
        "properties": {each.name: each.schema() for each in params},
        "required": [each.name for each in params if each.required],
        "additionalProperties": False,
    }


def values_of(given: Mapping[str, Any], params: Sequence[Param], of: str) -> dict[str, Any]:
    """Return the value of each parameter; null is as good as left out. Raises UsageError. of: who has them."""
    known = {each.name for each in params}
    if unknown := sorted(given.keys() - known):
        takes = f"it takes {', '.join(each.name for each in params)}" if params else "it takes none"
        raise UsageError(f"{of} has no parameter {_shown(unknown[0])}; {takes}")
    values = {}
    for param in params:
        value = given.get(param.name)
        if value is None and param.required:
            raise UsageError(f"{of} needs {param.name}: {param.words}")
        values[param.name] = param.default if value is None else param.checked(value)
    return values


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
