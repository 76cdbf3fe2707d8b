"""Configs on their way to another process, which has to import a study's plugins before it can unpickle them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ray import cloudpickle

from cfamc_ray.config.components import import_plugins

T = TypeVar("T")


@dataclass(frozen=True)
class Packed(Generic[T]):
    """A pickled value that stays pickled until a process asks for it."""

    plugins: tuple[str, ...]
    search_path: tuple[str, ...]
    """Folders in which the packing process looks for modules."""
    pickled: bytes

    def unpack(self) -> T:
        """The value; the plugins are imported first, from wherever the packing process would have.

        Raises:
            InputError: where a plugin cannot be imported here.
        """
        if self.plugins:
            sys.path.extend(folder for folder in self.search_path if folder not in sys.path)
            import_plugins(self.plugins)
        return cloudpickle.loads(self.pickled)  # type: ignore[no-any-return]


def pack(value: T, plugins: Sequence[str]) -> Packed[T]:
    """Pickle a value for another process.

    Args:
        value: a config, or a part of one.
        plugins: modules that its classes may be from, or that its keys may name components of.
    """
    return Packed(tuple(plugins), tuple(sys.path), cloudpickle.dumps(value))
