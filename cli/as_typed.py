"""Values of a command line that need no check are taken as they are: to check them Typer imports pydantic, 30 ms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from typer import BadParameter
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class _Coercion:
    """Takes what is missing, defaults and texts as they are; other values are coerced by Typer."""

    typer: Callable[[], Any]

    def __call__(self) -> _Coercion:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a value as the type of its parameter. Raises BadParameter."""
        annotation = param.type_descriptor.annotation
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if value == param.default or (annotation is str and isinstance(value, str)):
            return value
        if annotation == list[str] and isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
            return list(value)
        try:
            return self.typer().coerce(value, param=param, ctx=ctx)
        except BadParameter as exc:
            exc.message = exc.message.removeprefix("Value error, ")  # pydantic's
            raise


def _as_typed(params: list[Any]) -> list[Any]:
    for param in params:
        if not isinstance(param.get_runtime_param, _Coercion):
            param.get_runtime_param = _Coercion(param.get_runtime_param)
    return params


class QuickCommand(TyperCommand):
    """A command that takes values as they are where they need no check."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _as_typed(super().get_params(ctx))


class QuickGroup(TyperGroup):
    """A group of commands that takes values as they are where they need no check."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _as_typed(super().get_params(ctx))
