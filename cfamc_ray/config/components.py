"""Components: parts of a config that are chosen by name and have keys of their own, such as losses and data sets.

A component is a config class that is registered under its name. To add a loss, write such a class, register it, and
name its module under `plugins` in the space file; nothing in this package has to be changed.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    GetJsonSchemaHandler,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from cfamc_ray.config.errors import InputError, first_line, unknown
from cfamc_ray.config.types import Strict


class Component(Strict):
    """A config class; the default of its first key, as in ``name: Literal["emp_ssl"] = "emp_ssl"``, is its name."""

    implementation: ClassVar[str] = ""
    """``module:attribute`` that `build` calls; a string, because configs are also read where torch is not installed."""

    unnamed: ClassVar[bool] = False
    """Whether its name is not written, as before there were others of its kind: what was recorded then stays equal."""

    def build(self, *arguments: Any, **keywords: Any) -> Any:
        """Build the object that the config describes; each kind of component documents the arguments."""
        return pkgutil.resolve_name(self.implementation)(self, *arguments, **keywords)

    @classmethod
    def component_key(cls) -> str:
        """The key that holds the component's name."""
        return next(iter(cls.model_fields))

    @classmethod
    def component_name(cls) -> str:
        """The name under which the component is registered."""
        return str(cls.model_fields[cls.component_key()].default)

    @classmethod
    def own_keys(cls) -> list[str]:
        """All keys except the one that holds the name."""
        return list(cls.model_fields)[1:]

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        """Write a component without keys of its own as its name; the name is written even if defaults are left out."""
        tree = handler(self)
        if vars(type(self)).get("unnamed"):  # not inherited
            return {key: value for key, value in tree.items() if key != self.component_key()}
        return {self.component_key(): self.component_name(), **tree} if self.own_keys() else self.component_name()


C = TypeVar("C", bound=Component)


class Registry(Generic[C]):
    """The components of one kind.

    Args:
        kind: name of the kind in error messages, such as ``loss``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, type[C]] = {}

    def register(self, component: type[C]) -> type[C]:
        """Class decorator: register a component under its name.

        Raises:
            ValueError: if another class has this name, or a method is missing that every component of the kind needs.
        """
        name = component.component_name()
        if missing := sorted(getattr(component, "__abstractmethods__", ())):
            raise ValueError(f"the {self.kind} {name!r} must define {', '.join(missing)}: {component.__qualname__}")
        known = self.classes.get(name)
        # A notebook that defines a class again replaces it.
        if known is not None and (known.__module__, known.__qualname__) != (
            component.__module__,
            component.__qualname__,
        ):
            raise ValueError(f"there is a {self.kind} {name!r} already: {known.__module__}.{known.__qualname__}")
        self.classes[name] = component
        return component

    def find(self, name: object) -> type[C]:
        """The class that is registered under a name.

        Raises:
            ValueError: if there is none; the message has the nearest name and all names.
        """
        if isinstance(name, str) and name in self.classes:
            return self.classes[name]
        raise ValueError(unknown(self.kind, name, self.classes) + "; others need their module under `plugins`")

    def parse(self, value: Any, default: type[C]) -> Any:
        """Create a component from its keys or from its name alone; pydantic refuses any other value.

        Args:
            value: as written in the file.
            default: class to use if the keys include no name.
        """
        if isinstance(value, str):
            return self.find(value)()
        if not isinstance(value, Mapping):
            return value
        key = default.component_key()
        return self.find(value.get(key, default.component_name())).model_validate(dict(value))

    def has_key(self, key: str) -> bool:
        """Whether a component has a key."""
        return any(key in component.model_fields for component in self.classes.values())

    def keys(self) -> list[str]:
        """The key that holds the name, and the keys of all components."""
        return list(dict.fromkeys(key for component in self.classes.values() for key in component.model_fields))


class ComponentField:
    """Marks a field as one that holds a component: ``loss: Annotated[LossConfig, ComponentField(LOSSES, EmpSsl)]``.

    Args:
        registry: registry of the components.
        default: class to use if no name is given.
    """

    def __init__(self, registry: Registry[Any], default: type[Component]) -> None:
        self.registry, self.default = registry, default

    def name_key(self, section: str) -> str:
        """The key that chooses the component of a section: ``loss.name``, or the section where a name says all."""
        key = self.default.component_key()
        return f"{section}.{key}" if self.default.own_keys() else section

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        validator = BeforeValidator(lambda value: self.registry.parse(value, self.default))
        schema: CoreSchema = handler(Annotated[SerializeAsAny[source], validator])  # type: ignore[misc]
        return schema

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        one_of = [handler(component.__pydantic_core_schema__) for component in self.registry.classes.values()]
        return {"oneOf": one_of}


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules that register components; they may lie in the working directory.

    Raises:
        InputError: if a module cannot be imported.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module raises
            missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
            remedy = "; name a module that is installed or lies in the working directory" if missing else ""
            why = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"plugins: {module} cannot be imported ({why}){remedy}") from error


def component_field(field: FieldInfo) -> ComponentField | None:
    """The mark of a field that holds a component; None for any other field."""
    choices = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else ()
    optional = (mark for part in choices for mark in getattr(part, "__metadata__", ()))
    return next((mark for mark in (*field.metadata, *optional) if isinstance(mark, ComponentField)), None)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The class of a field's section, given or null; None for a field that holds a value."""
    choices = (annotation, *get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((each for each in choices if isinstance(each, type) and issubclass(each, BaseModel)), None)


def keys_of(model: type[BaseModel]) -> list[str]:
    """All dotted keys of a config, including those of every registered component."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        section, mark = field.annotation, component_field(field)
        if mark is not None and field.default is not None:
            inner = list(dict.fromkeys(key for each in mark.registry.classes.values() for key in keys_of(each)))
            if not mark.default.own_keys():  # written as its bare name
                keys.append(name)
                inner.remove(mark.default.component_key())
        elif isinstance(section, type) and issubclass(section, BaseModel):
            inner = keys_of(section)
        else:
            inner = []
            keys.append(name)
        keys += [f"{name}.{key}" for key in inner]
    return keys


def field_of(model: Any, key: str) -> FieldInfo | None:
    """The field of a dotted key, searched in all registered components; None if there is no such field."""
    name, _, rest = key.partition(".")
    field: FieldInfo | None = getattr(model, "model_fields", {}).get(name)
    if field is None or not rest:
        return field
    mark = component_field(field)
    sections = mark.registry.classes.values() if mark else [field.annotation]
    return next(filter(None, (field_of(section, rest) for section in sections)), None)


def lay(model: Any, under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees of keys section by section; `over` wins where both have a key.

    If `over` names another component than `under`, keys of the old one that the new one does not have are dropped, and
    so are those with the old one's default: in a config that is written out nobody has asked for them.

    Args:
        model: config class of both trees; anything without fields merges them as plain mappings.
        under: tree of keys that gives way.
        over: tree of keys that wins.
    """
    laid = {**under, **over}
    for key in under.keys() & over.keys():
        low, high = under[key], over[key]
        section, mark = section_and_mark(model, key)
        if mark is not None:
            name = mark.default.component_key()
            low, high = ({name: tree} if isinstance(tree, str) else tree for tree in (low, high))
        if not isinstance(low, Mapping) or not isinstance(high, Mapping):
            continue
        if mark is not None:
            before, section = (
                _class_of(mark, {name: mark.default.component_name(), **tree}[name]) for tree in (low, {**low, **high})
            )
            low = {own: value for own, value in low.items() if section is None or own in section.model_fields}
            if before is not section and before is not None:
                low = {own: value for own, value in low.items() if own == name or not _is_default(before, own, value)}
        laid[key] = lay(section, low, high)
    return laid


def _class_of(mark: ComponentField, name: object) -> type[Component] | None:
    """The class of a component; None if there is none, which validation refuses."""
    return mark.registry.classes.get(name) if isinstance(name, str) else None


def _is_default(component: type[Component], key: str, value: object) -> bool:
    """Whether a key has the component's default, as Python or as YAML writes it."""
    field = component.model_fields.get(key)
    plain_value = tuple(value) if isinstance(value, list) else value
    return field is not None and plain_value == field.default


@cache  # a search asks this for thousands of points
def section_and_mark(model: Any, key: str) -> tuple[Any, ComponentField | None]:
    """The type of a config's field, and its mark if it holds a component."""
    field = getattr(model, "model_fields", {}).get(key)
    return (field.annotation, component_field(field)) if field else (None, None)


def branch(key: str, value: object) -> dict[str, Any]:
    """The tree of one dotted key: ``crops.views`` and 4 make ``{crops: {views: 4}}``."""
    tree: Any = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    return tree  # type: ignore[no-any-return]
