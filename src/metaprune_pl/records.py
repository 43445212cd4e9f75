"""Dataclasses from JSON, each value checked against its type once, where it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from metaprune_pl.errors import StorageError
from metaprune_pl.files import read_json

T = TypeVar("T")


def read_record(kind: type[T], path: Path) -> T:
    """Read a file that holds a dataclass, or a list or dictionary of them.

    Args:
        kind: Type of what is there, such as `Cost` or `list[Pruned]`.
        path: File of JSON.

    Raises:
        StorageError: The file is missing or damaged, or holds something else.
    """
    return as_record(kind, read_json(path), path)


def as_record(kind: type[T], data: Any, path: Path) -> T:
    """Make a dataclass, or a list or dictionary of them, of plain values.

    Args:
        kind: What to make.
        data: Values as JSON has them.
        path: Where they come from, for errors.

    Raises:
        StorageError: They are something else.
    """
    try:
        return _checked(kind, data, "")  # type: ignore[no-any-return]
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({error}).") from error


def _checked(kind: Any, data: Any, key: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if is_dataclass(kind):
        return _dataclass(kind, data, key)
    if origin in (Union, UnionType):
        return _one_of(inner, data, key)
    if origin is Literal and data in inner:
        return data
    if kind is float and type(data) in (int, float):
        return data
    if kind in (int, str, bool, NoneType) and type(data) is kind:
        return data
    if origin in (list, Sequence) and type(data) is list:
        return [_checked(inner[0], value, f"{key}[{i}]") for i, value in enumerate(data)]
    if origin is tuple and inner[-1] is Ellipsis and type(data) is list and data:
        return tuple(_checked(inner[0], value, f"{key}[{i}]") for i, value in enumerate(data))
    if origin is tuple and type(data) is list and len(data) == len(inner):
        return tuple(_checked(part, value, key) for part, value in zip(inner, data, strict=True))
    if origin in (dict, Mapping) and type(data) is dict:
        return {name: _checked(inner[1], value, f"{key}.{name}") for name, value in data.items()}
    raise ValueError(f"{key.lstrip('.') or 'it'} is {_shown(data)}")


def _one_of(kinds: tuple[Any, ...], data: Any, key: str) -> Any:
    for kind in kinds[:-1]:
        try:
            return _checked(kind, data, key)
        except ValueError:
            continue
    return _checked(kinds[-1], data, key)


def _dataclass(kind: Any, data: Any, key: str) -> Any:
    if type(data) is not dict:
        raise ValueError(f"{key.lstrip('.') or 'it'} is {_shown(data)}")
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(data.keys() - known.keys()):
        raise ValueError(f"unknown key '{unknown[0]}'")
    for name, field in known.items():
        default = field.default is not MISSING or field.default_factory is not MISSING
        if name not in data and not default:
            raise ValueError(f"no key '{name}'")
    types = get_type_hints(kind)
    return kind(
        **{name: _checked(types[name], value, f"{key}.{name}") for name, value in data.items()}
    )


def _shown(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 40 else f"{text[:40]} ..."
