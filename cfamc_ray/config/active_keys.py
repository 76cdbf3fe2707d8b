"""Conditional keys: a key of a component, such as ``loss.temperature``, counts only where that component is chosen."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from cfamc_ray.config.components import ComponentField, component_field, section_and_mark
from cfamc_ray.config.types import Scalar


def active(model: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without the keys of components that are not chosen.

    A key that no component has is kept, so that validation refuses it.

    Args:
        model: config class of the tree.
        tree: nested keys and their values.
    """
    kept = dict(tree)
    for name, (section, mark) in _sections_with_components(model).items():
        if isinstance(value := tree.get(name), Mapping):
            kept[name] = _of_chosen(mark, value) if mark else active(section, value)
    return kept


def _of_chosen(mark: ComponentField, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a component without the keys that only others have."""
    section = mark.registry.classes.get(tree.get(mark.default.component_key(), mark.default.component_name()))
    own = section.model_fields if section else tree
    return active(section, {key: value for key, value in tree.items() if key in own or not mark.registry.has_key(key)})


@cache  # a search asks this for thousands of points
def _sections_with_components(model: Any) -> dict[str, tuple[Any, ComponentField | None]]:
    """The sections of a config that hold a component, themselves (with its mark) or further inside."""
    marks = component_sections(model) if model else {}
    names = {section.partition(".")[0] for section in marks}
    return {name: (model.model_fields[name].annotation, marks.get(name)) for name in names}


@cache  # a report asks this for each key of each trial
def _is_conditional(model: Any, key: str) -> bool:
    """Whether a key belongs to a component, so that not every trial may have it."""
    name, _, rest = key.partition(".")
    section, mark = section_and_mark(model, name)
    return bool(rest) and (mark is not None or _is_conditional(section, rest))


def active_part(
    model: type[BaseModel],
    point: Mapping[str, Scalar],
    tree_at: Callable[[Mapping[str, Scalar]], Mapping[str, Any]],
) -> dict[str, Scalar]:
    """The part of a point that determines its trial, without keys that the trial's components do not have.

    Args:
        model: config class of a trial.
        point: searched keys and their values.
        tree_at: gives the set keys of a point's trial.
    """
    conditional = {key for key in point if _is_conditional(model, key)}
    tree = tree_at(point) if conditional else {}
    return {key: value for key, value in point.items() if key not in conditional or has_key(tree, key)}


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
