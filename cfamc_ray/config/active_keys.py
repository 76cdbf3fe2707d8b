"""Conditional keys: a key of a component, such as ``loss.temperature``, counts only where that component is chosen."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from cfamc_ray.config.components import ComponentField, component_field


def active(model: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without the keys of components that are not chosen.

    A key that no component has is kept, so that validation refuses it.

    Args:
        model: config class of the tree.
        tree: nested keys and their values.
    """
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        field = getattr(model, "model_fields", {}).get(name)
        section = field.annotation if field else None
        others: set[str] = set()
        if isinstance(value, Mapping) and field and (mark := component_field(field)):
            chosen = value.get(mark.default.component_key(), mark.default.component_name())
            section = mark.registry.classes.get(chosen)
            others = set(mark.registry.keys()) - set(section.model_fields) if section else set()
        if isinstance(value, Mapping):
            kept[name] = active(section, {key: own for key, own in value.items() if key not in others})
        else:
            kept[name] = value
    return kept


def has_key(tree: Any, key: str) -> bool:
    """Whether a tree holds a dotted key."""
    for name in key.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return False
        tree = tree[name]
    return True


def component_sections(model: type[BaseModel]) -> dict[str, ComponentField]:
    """The sections of a config that hold a component, such as ``loss``, and what marks their fields."""
    sections: dict[str, ComponentField] = {}
    for name, field in model.model_fields.items():
        section = field.annotation
        classes: list[type[BaseModel]] = []
        if mark := component_field(field):
            sections[name] = mark
            classes += mark.registry.classes.values()
        elif isinstance(section, type) and issubclass(section, BaseModel):
            classes.append(section)
        for inner in classes:
            sections |= {f"{name}.{key}": inner_mark for key, inner_mark in component_sections(inner).items()}
    return sections
