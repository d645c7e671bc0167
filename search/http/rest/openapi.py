"""The OpenAPI document (3.1), made from the endpoints and from the types of the records that they return."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vfindex import __version__
from vfindex.search.http.rest.endpoints import FORM, JSON, MAX_PICTURES, PICTURE, Endpoint, Param
from vfindex.search.results import Feedback, Hit, Hits, Missing
from vfindex.search.understanding.answering import phrase
from vfindex.storage import labels, modalities, records
from vfindex.storage.user import records as user

_SCALARS: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    bytes: {"type": "string"},
    Path: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
    dict: {"type": "object"},
}
_KINDS = {"text": str, "integer": int, "number": float, "boolean": bool, "video": str, "clip": str, "object": dict}
# What `Hits.to_dict` writes: it is a list, and no dataclass.
_HITS: Mapping[str, Any] = {
    "query": str,
    "images": tuple[str, ...],
    "like": tuple[str, ...],
    "match": bool,
    "confident": bool | None,
    "hints": tuple[records.Hint, ...],
    "missing": tuple[Missing, ...],
    "labels": Mapping[str, int],
    "feedback": Feedback,
    "hits": tuple[Hit, ...],
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "message"],
            "properties": {
                "kind": {"type": "string", "description": "A short stable word."},
                "message": {"type": "string", "description": "A sentence."},
                "position": {"type": "integer", "description": "Of a wrong query: the character, from 0."},
            },
        }
    },
}


def openapi(endpoints: Iterable[Endpoint], root_path: str = "") -> dict[str, Any]:
    """Return the document."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "vfindex", "version": __version__, "description": "Moments of a video library, by words."},
        "servers": [{"url": root_path or "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas.found, "Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    about, _, more = endpoint.about.partition("\n\n")
    if isinstance(endpoint.returns, str):
        content: dict[str, Any] = {endpoint.returns: {}}
    else:
        content = {JSON: {"schema": schemas.of(endpoint.returns)}}
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": " ".join(about.split()),
        "description": " ".join(more.split()),
        "parameters": [
            *(_parameter(param, "path") for param in endpoint.in_path),
            *(_parameter(param, "query") for param in endpoint.query),
        ],
        "responses": {
            "200": {"description": "the answer", "content": content},
            "default": {
                "description": "an error",
                "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if endpoint.body:
        operation["requestBody"] = {"required": True, "content": {_body_type(endpoint): {"schema": _body(endpoint)}}}
    return operation


def _body_type(endpoint: Endpoint) -> str:
    return FORM if endpoint.takes_pictures else JSON


def _parameter(param: Param, place: str) -> dict[str, Any]:
    example = {} if param.example is None else {"example": param.example}
    return {
        "name": param.name,
        "in": place,
        "required": param.required or place == "path",
        "description": param.about,
        "schema": _value(param),
        **example,
    }


def _body(endpoint: Endpoint) -> dict[str, Any]:
    properties = {param.name: {**_value(param), "description": param.about} for param in endpoint.body}
    if endpoint.takes_pictures:
        picture = {"type": "string", "contentMediaType": "application/octet-stream"}
        properties[PICTURE] = {"type": "array", "items": picture, "maxItems": MAX_PICTURES}
    required = [param.name for param in endpoint.body if param.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _value(param: Param) -> dict[str, Any]:
    """Return the schema of a parameter's value."""
    schema = dict(_SCALARS[_KINDS[param.kind]])
    if param.kind in ("video", "clip"):
        schema["pattern"] = param.pattern
    if param.choices:
        schema["enum"] = list(param.choices)
    for name, bound in (("minimum", param.least), ("maximum", param.most)):
        if bound is not None:
            schema[name] = bound
    if param.default is not None:
        schema["default"] = param.default
    return {"type": "array", "items": schema} if param.many else schema


class _Schemas:
    """Schemas of records, each made once."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._kinds: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of a type as `Record.to_dict` writes it."""
        if kind in _SCALARS:
            return dict(_SCALARS[kind])
        origin, inside = get_origin(kind), get_args(kind)
        if origin is Literal:
            return {"enum": list(inside)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(each) for each in inside]}
        if origin in (tuple, list):
            return self._list(inside)
        if origin is not None and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(inside[1])}
        if issubclass(kind, tuple):  # a named one is a list in JSON
            return self._list(tuple(get_type_hints(kind).values()))
        return self._record(kind)

    def _list(self, inside: tuple[Any, ...]) -> dict[str, Any]:
        if len(inside) == 1 or inside[-1] is Ellipsis:
            return {"type": "array", "items": self.of(inside[0])}
        items = [self.of(each) for each in inside]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}

    def _record(self, kind: Any) -> dict[str, Any]:
        name = kind.__name__
        if self._kinds.setdefault(name, kind) is not kind:  # two records of one name: `Moment` of `ask` is AskMoment
            name = f"{kind.__module__.rpartition('.')[2].title()}{name}"
        if name not in self.found:
            self.found[name] = {}  # a record that holds itself ends here
            hints = _HITS if kind is Hits else _fields(kind)
            self.found[name] = {
                "type": "object",
                "description": " ".join((inspect.getdoc(kind) or "").split()),
                "properties": {field: self.of(hint) for field, hint in hints.items()},
                "required": [field for field in hints if (kind, field) != (Hits, "feedback")],
                "additionalProperties": False,
            }
        return {"$ref": f"#/components/schemas/{name}"}


def _fields(kind: Any) -> dict[str, Any]:
    """Return the types of a record's fields. Some modules import them for type checkers alone."""
    others = {"Path": Path, **vars(phrase), **vars(modalities), **vars(records), **vars(labels), **vars(user)}
    names = {**others, **vars(sys.modules[kind.__module__])}
    hints = get_type_hints(kind, localns=names)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
