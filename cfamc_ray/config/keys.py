"""The page that explains every key of a space file: python -m cfamc_ray.config.keys > docs/keys.md."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cfamc_ray.config.scaling import LearningConfig, SystemConfig
from cfamc_ray.config.study import StudyConfig

HEAD = """# Every key of a space file

Made by `python -m cfamc_ray.config.keys > docs/keys.md` from what the program checks. The keys of a trial are written
under `trial:`, or as dotted names in `space:`, `constraints:` and `--set`. Null means: none.

Ranges of `space:` are `{int: [2, 16]}`, `{float: [0.1, 1.0]}`, both with `log: true` where their logarithm is to be
drawn evenly, `{choice: [a, b]}`, or a value. Numbers may be fractions such as `8/255`.

Files are YAML 1.2: only `true` and `false` are booleans (`yes`, `no`, `on` and `off` are text), `010` is ten, and large
numbers may be written `1e5` or `19_200`.
"""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}

LONGEST_DECIMAL = 10
"""Characters of a number that is shown as it is; a longer one is shown as a fraction of 255, if it is one."""

SPECIAL = {
    "evaluation.measures": "a list of names, such as `effective_rank`, or of their keys, {name: …}",
    "space": "keys, each with a range",
    "start_from": "a list of recipes' names, or of points {key: value, …}",
    "constraints": "a list of comparisons, such as `crops.views * pretraining.epochs <= 48`",
}
"""Values that no schema describes."""


class Key(NamedTuple):
    """One key as it is explained."""

    name: str
    values: str
    default: str
    meaning: str


def main() -> None:
    """Print the page."""
    print(keys_page(), end="")


def keys_page() -> str:
    """All keys, a table for each group, as Markdown."""
    schema = StudyConfig.model_json_schema()
    parts = [HEAD, *_section("The study", "", schema, schema["$defs"])]
    for name, model in (("system", SystemConfig), ("learning", LearningConfig)):
        part = model.model_json_schema()
        title = f"`{name}`, of a scaling study (`python -m cfamc_ray.scale`)"
        parts += _section(title, f"{name}.", part, part.get("$defs", {}))
    return "\n".join(parts)


def _section(title: str, prefix: str, schema: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[str]:
    """A heading, what the group is for, its keys; then the groups in it."""
    yield f"## {title}\n"
    if prefix:
        yield _line(schema.get("description", "")) + "\n"
    inner: list[tuple[str, Mapping[str, Any]]] = []
    rows: list[Key] = []
    for name, written in schema["properties"].items():
        group = _group_of(written, groups)
        if "oneOf" in written and _have_own_keys(written, groups):
            inner.append((name, written))
        elif "oneOf" in written:
            rows += _components(prefix + name, written, groups)
        elif group is None:
            rows.append(_key(prefix + name, written))
        else:
            inner.append((name, group))
            if written.get("default", {}) is None:
                rows.append(Key(prefix + name, "a group of keys, below", "null", _line(written.get("description", ""))))
    yield "| key | value | default | what |\n|---|---|---|---|"
    yield from map(_row, rows)
    yield ""
    for name, group in inner:
        path = "" if name == "trial" else f"{prefix}{name}."
        if "oneOf" in group:
            yield from _component_section(path.removesuffix("."), group, groups)
            continue
        yield from _section(f"`{path.removesuffix('.')}`" if path else "A trial", path, group, groups)


def _component_section(path: str, written: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[str]:
    """A heading, and the keys of each component that may stand in a place."""
    yield f"## `{path}`\n"
    yield f"{_line(written.get('description', ''))}\n"
    yield "| key | value | default | what |\n|---|---|---|---|"
    yield from map(_row, _components(path, written, groups))
    yield ""


def _components(path: str, written: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[Key]:
    """The key that chooses a component, then the own keys of each."""
    components = _parts(written, groups)
    chooser = next(iter(components[0]["properties"]))
    names = [component["properties"][chooser]["default"] for component in components]
    default = written["default"][chooser] if isinstance(written["default"], Mapping) else written["default"]
    what = "; ".join(f"`{name}`: {_line(each['description'])}" for name, each in zip(names, components, strict=True))
    key = f"{path}.{chooser}" if _have_own_keys(written, groups) else path
    yield Key(key, ", ".join(f"`{name}`" for name in names), default, what)
    for name, component in zip(names, components, strict=True):
        own = [_key(f"{path}.{key}", each) for key, each in component["properties"].items() if key != chooser]
        yield from (row._replace(meaning=f"Of `{name}`. {row.meaning}") for row in own)


def _have_own_keys(written: Mapping[str, Any], groups: Mapping[str, Any]) -> bool:
    """Whether a component has keys beside the one that chooses it."""
    return any(len(component["properties"]) > 1 for component in _parts(written, groups))


def _parts(written: Mapping[str, Any], groups: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schemas of the components that may stand in a place."""
    return [groups[part["$ref"].rpartition("/")[2]] if "$ref" in part else part for part in written["oneOf"]]


def _row(key: Key) -> str:
    return f"| `{key.name}` | {key.values} | {key.default} | {key.meaning} |"


def _group_of(written: Mapping[str, Any], groups: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The keys below a key, where it is a group."""
    references = [part["$ref"] for part in (written, *written.get("anyOf", ())) if "$ref" in part]
    if len(references) != 1:
        return None
    group: Mapping[str, Any] = groups[references[0].rpartition("/")[2]]
    return group if "properties" in group else None


def _key(name: str, written: Mapping[str, Any]) -> Key:
    default = _value(written, written["default"]) if "default" in written else "must be given"
    return Key(name, SPECIAL.get(name) or _values(written), default, _line(written.get("description", "")))


def _values(written: Mapping[str, Any]) -> str:
    """What a key takes."""
    if "anyOf" in written:
        return " or ".join(dict.fromkeys(_values(part) for part in written["anyOf"]))
    if "enum" in written:
        return ", ".join(f"`{value}`" for value in written["enum"])
    if "const" in written:
        return f"`{written['const']}`"
    if written.get("type") == "array":
        parts = written.get("prefixItems")
        return f"[{', '.join(map(_values, parts))}]" if parts else f"a list of: {_values(written.get('items', {}))}"
    if written.get("type") == "object":
        return f"names, each with: {_values(written.get('additionalProperties', {}))}"
    bounds = [f"{sign} {written[key]:g}" for key, sign in BOUNDS.items() if key in written]
    return ", ".join([TYPES.get(written.get("type", ""), "a value"), *bounds])


def _value(written: Mapping[str, Any], value: Any) -> str:
    if written.get("unit") == "pixels" and math.isclose(value * 255, round(value * 255)):
        return f"{round(value * 255)}/255"
    return "" if value == "" else f"{json.dumps(value, ensure_ascii=False)}".strip('"')


def _line(text: str) -> str:
    """In one line that a table can hold."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
