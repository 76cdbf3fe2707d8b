"""Trees of keys, as YAML holds them."""

from collections.abc import Mapping
from typing import Any


def lay(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of keys laid over another: what both have is that of `over`, section by section."""
    laid = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], Mapping) and isinstance(over[key], Mapping):
            laid[key] = lay(under[key], over[key])
    return laid


def branch(key: str, value: object) -> dict[str, Any]:
    """The tree of one dotted key: ``crops.views`` and 4 make ``{crops: {views: 4}}``."""
    tree: Any = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    return tree  # type: ignore[no-any-return]
