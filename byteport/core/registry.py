"""Finds sources, runbooks and the like: one file each, no list to extend.

What ships with BytePort and what comes from outside enter by the same door: a module that defines one named
attribute. Inside, every module of a package is looked at; outside packages announce theirs as entry points.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """All objects called `attribute` in the modules of `package` or of the entry-point group, by their `name`.

    A module may define one object, or a tuple of them.

    Raises ValueError when two of them bear the same name.
    """

    def __init__(self, *, package: str, attribute: str, group: str) -> None:
        self._package = package
        self._attribute = attribute
        self._group = group

    @cached_property
    def _found(self) -> dict[str, T]:
        found: dict[str, T] = {}
        for module_name in self._module_names():
            defined = getattr(importlib.import_module(module_name), self._attribute, ())
            for entry in defined if isinstance(defined, tuple) else (defined,):
                if entry.name in found:
                    raise ValueError(f"two entries named {entry.name!r} in {self._group}")
                found[entry.name] = entry
        return dict(sorted(found.items()))

    def _module_names(self) -> Iterator[str]:
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            yield f"{self._package}.{module.name}"
        for point in entry_points(group=self._group):
            yield point.value

    def __getitem__(self, name: str) -> T:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
