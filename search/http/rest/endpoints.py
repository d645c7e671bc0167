"""Endpoints as data: a path, parameters with their types, what it returns.

Requests are checked against it, and the OpenAPI document is made from it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from vfindex.search.http.rest.answers import Refusal
from vfindex.search.query.values import is_number
from vfindex.storage.records import ClipKey

Kind = Literal["text", "integer", "number", "boolean", "video", "clip", "object"]
Method = Literal["GET", "POST", "PUT", "DELETE"]
FINGERPRINT = re.compile(r"[A-Za-z0-9_-]{1,100}")
# FINGERPRINT:START_MS
CLIP = re.compile(r"([A-Za-z0-9_-]{1,100}):(-?\d{1,12})", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,15}", re.ASCII)
# A double of less than a second, as JSON writes it, has up to 21 decimals.
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,25})?", re.ASCII)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
# Parameters of one request, repeated ones included.
MAX_PARAMS = 100
_IN_PATH = re.compile(r"\{(\w+)\}")
_MARK = "endpoint"
# The field of a form that holds a picture, and how many one question may have.
PICTURE, MAX_PICTURES = "image", 4
FORM, JSON = "multipart/form-data", "application/json"


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: of the path, the query or a body. many: it may be repeated; its value is a tuple.

    example: a value for the OpenAPI document.
    """

    name: str
    kind: Kind
    about: str
    default: Any = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    many: bool = False
    required: bool = False
    example: str | float | bool | None = None

    def parse(self, text: str) -> Any:
        """Return the value of a text. Raises Refusal."""
        value: Any = None
        if self.kind == "text":
            value = text
        elif self.kind == "integer" and _INTEGER.fullmatch(text):
            value = int(text)
        elif self.kind == "number" and _NUMBER.fullmatch(text):
            value = float(text)
        elif self.kind == "boolean":
            value = _BOOLEANS.get(text.lower())
        elif self.kind == "video" and FINGERPRINT.fullmatch(text):
            value = text
        elif self.kind == "clip" and (match := CLIP.fullmatch(text)):
            value = ClipKey(match[1], int(match[2]))
        return self.checked(value)

    def of_json(self, value: Any) -> Any:
        """Return a value of a JSON document. Raises Refusal for one of another type."""
        if self.kind == "clip" and isinstance(value, list) and [type(each) for each in value] == [str, int]:
            value = f"{value[0]}:{value[1]}"  # as the key of a hit
        if self.kind in ("video", "clip") and isinstance(value, str):
            return self.parse(value)
        fits = {
            "text": isinstance(value, str),
            "integer": isinstance(value, int) and not isinstance(value, bool),
            "number": is_number(value),
            "boolean": isinstance(value, bool),
            "object": isinstance(value, dict),
        }
        return self.checked(value if fits.get(self.kind, False) else None)

    def checked(self, value: Any) -> Any:
        """Return a value within its bounds. Raises Refusal; also for None, which stands for one of a wrong form."""
        too_small = self.least is not None and value is not None and value < self.least
        too_large = self.most is not None and value is not None and value > self.most
        if value is None or too_small or too_large or (self.choices and value not in self.choices):
            raise Refusal(400, "WrongParameter", f"{self.name} must be {self.words}")
        return value

    @property
    def pattern(self) -> str | None:
        """The regular expression of a fingerprint or a key."""
        return {"video": f"^{FINGERPRINT.pattern}$", "clip": f"^{CLIP.pattern}$"}.get(self.kind)

    @property
    def words(self) -> str:
        """What the parameter takes, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        bounds = ""
        if self.least is not None:
            bounds = f" of {self.least:,g} or more" if self.most is None else f" of {self.least:,g} to {self.most:,g}"
        return {
            "text": "text",
            "integer": f"a whole number{bounds}",
            "number": f"a number{bounds}",
            "boolean": "true or false",
            "video": "the fingerprint of a video",
            "clip": "the key of a clip, as FINGERPRINT:START_MS",
            "object": "a JSON object",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose parameters have been checked. values: by name. files: pictures that came with it."""

    request: Request
    values: Mapping[str, Any]
    files: Sequence[bytes] = ()

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


Run = Callable[[Any, Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a path answers. name, about, run: of the method that answers, and its docstring.

    returns: the record of its JSON document, or a media type. body: parameters of a JSON body, or of a form with
    pictures if `takes_pictures`.
    """

    method: Method
    path: str
    returns: type | str
    query: tuple[Param, ...] = ()
    in_path: tuple[Param, ...] = ()
    body: tuple[Param, ...] = ()
    takes_pictures: bool = False
    name: str = ""
    about: str = ""
    run: Callable[[Call], Awaitable[Response]] | None = None

    def __post_init__(self) -> None:
        if {each.name for each in self.in_path} != set(_IN_PATH.findall(self.path)):
            raise ValueError(f"the parameters of {self.path}")

    async def __call__(self, request: Request) -> Response:
        """Answer a request. Raises Refusal for one with wrong parameters."""
        values = {each.name: each.parse(request.path_params[each.name]) for each in self.in_path}
        values |= _parsed(query_of(request), self.query)
        files: list[bytes] = []
        if self.takes_pictures:
            fields, files = await form_of(request)
            values |= _parsed(fields, self.body)
        elif self.body:
            values |= _of_document(await _document(request), self.body)
        if self.run is None:
            raise TypeError(f"nothing answers {self.path}")
        return await self.run(Call(request, values, files))


def answers(endpoint: Endpoint) -> Callable[[Run], Run]:
    """Return a decorator that says what a method answers; `endpoints_of` finds it."""

    def mark(run: Run) -> Run:
        run.__dict__[_MARK] = endpoint
        return run

    return mark


def endpoints_of(handler: object) -> list[Endpoint]:
    """Return the endpoints that the methods of an object answer, in their order."""
    marked = [(name, run, run.__dict__[_MARK]) for name, run in vars(type(handler)).items() if _has_mark(run)]
    return [
        replace(endpoint, name=name, about=inspect.getdoc(run) or "", run=getattr(handler, name))
        for name, run, endpoint in marked
    ]


def _has_mark(run: object) -> bool:
    return _MARK in getattr(run, "__dict__", ())


def query_of(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of the address. Raises Refusal for too many, and for text that is not UTF-8."""
    query = request.scope["query_string"].decode("latin-1")
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMS)
    except UnicodeDecodeError as exc:
        raise Refusal(400, "WrongParameter", "the address has bytes that are not UTF-8") from exc
    except ValueError as exc:
        raise Refusal(400, "WrongParameter", f"the address has more than {MAX_PARAMS} parameters") from exc


def _parsed(given: Sequence[tuple[str, str]], params: Sequence[Param]) -> dict[str, Any]:
    """Return the values of all parameters. Raises Refusal for unknown, repeated, missing and wrong ones."""
    by_name, found = {each.name: each for each in params}, dict[str, list[str]]()
    for name, text in given:
        if name not in by_name:
            raise _unknown(name, by_name)
        found.setdefault(name, []).append(text)
    values: dict[str, Any] = {}
    for param in params:
        texts = found.get(param.name, [])
        if len(texts) > 1 and not param.many:
            raise Refusal(400, "WrongParameter", f"{param.name} is given {len(texts)} times; give it once")
        parsed = [param.parse(text) for text in texts]
        values[param.name] = tuple(parsed) if param.many else parsed[0] if parsed else _absent(param)
    return values


def _unknown(name: str, known: Mapping[str, Param]) -> Refusal:
    takes = f"there are {', '.join(known)}" if known else "there are none here"
    return Refusal(400, "UnknownParameter", f"there is no parameter {name[:50]!a}; {takes}")


def _absent(param: Param) -> Any:
    if param.required:
        raise Refusal(400, "WrongParameter", f"{param.name} is missing: give {param.words}")
    return param.default


async def _document(request: Request) -> dict[str, Any]:
    """Return the JSON object of a body. Raises Refusal."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Refusal(415, "WrongType", f"the body must be JSON, with the header Content-Type: {JSON}")
    try:
        document = json.loads(await request.body())
    except (ValueError, RecursionError) as exc:
        raise Refusal(400, "WrongBody", "the body is not valid JSON") from exc
    if not isinstance(document, dict):
        raise Refusal(400, "WrongBody", "the body must be a JSON object")
    return document


def _of_document(document: Mapping[str, Any], params: Sequence[Param]) -> dict[str, Any]:
    by_name = {each.name: each for each in params}
    for name in document:
        if name not in by_name:
            raise _unknown(name, by_name)
    values: dict[str, Any] = {}
    for param in params:
        given = document.get(param.name)
        if given is None:
            values[param.name] = () if param.many and not param.required else _absent(param)
        elif param.many:
            if not isinstance(given, list) or len(given) > MAX_PARAMS:
                raise Refusal(400, "WrongParameter", f"{param.name} must be a list of at most {MAX_PARAMS} values")
            values[param.name] = tuple(param.of_json(each) for each in given)
        else:
            values[param.name] = param.of_json(given)
    return values


async def form_of(request: Request) -> tuple[list[tuple[str, str]], list[bytes]]:
    """Return the fields of a form, and the pictures in it. Raises Refusal."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Refusal(415, "WrongType", f"the body must be a form, with the header Content-Type: {FORM}")
    fields: list[tuple[str, str]] = []
    files: list[bytes] = []
    async with request.form(max_files=MAX_PICTURES, max_fields=MAX_PARAMS) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields.append((name, value))
            elif name == PICTURE:
                files.append(await value.read())
            else:
                raise Refusal(400, "UnknownParameter", f"pictures are named {PICTURE}, not {name[:50]!a}")
    return fields, files
