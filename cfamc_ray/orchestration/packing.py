"""Configs that are sent to another process, which must import a study's plugins before it can unpickle them."""

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
    """Module search path of the packing process."""
    pickled: bytes

    def unpack(self) -> T:
        """Unpickle the value, after importing the plugins from the search path of the packing process.

        Raises:
            InputError: if a plugin cannot be imported here.
        """
        if self.plugins:
            sys.path.extend(folder for folder in self.search_path if folder not in sys.path)
            import_plugins(self.plugins)
        return cloudpickle.loads(self.pickled)  # type: ignore[no-any-return]


def pack(value: T, plugins: Sequence[str]) -> Packed[T]:
    """Pickle a value for another process.

    Args:
        value: a config, or a part of one.
        plugins: modules that define its classes, or components that its keys name.
    """
    return Packed(tuple(plugins), tuple(sys.path), cloudpickle.dumps(value))
