"""Read configs from YAML and command-line overrides; errors name the file, the key and what would be right."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import permutations
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cfamc_ray.config.components import branch, component_field, import_plugins, keys_of, lay, section_of
from cfamc_ray.config.errors import InputError, message_of, nearest
from cfamc_ray.config.heads import HEADS
from cfamc_ray.config.protocol import PROTOCOLS, PUBLISHED, ProtocolConfig
from cfamc_ray.config.radii import radius_in_l2
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig, lay_trials
from cfamc_ray.config.types import Strict
from cfamc_ray.config.yaml12 import dump_yaml, parse_yaml, read_yaml

Config = TypeVar("Config", StudyConfig, ScalingConfig)

PACKAGE = Path(__file__).resolve().parent.parent
SPACE_FOLDERS = (Path("search_spaces"), PACKAGE / "search_spaces", PACKAGE.parent / "search_spaces")
"""Folders in which a bare name is looked up: in the working directory, in the wheel, and in the checkout."""
LONGEST = 200
"""Largest number of characters of a wrong value that an error shows."""
ALSO_CALLED = {
    "conditions": "constraints",
    "dialect": "variant",
    "halving": "mo_asha",
    "recompute": "activation_checkpointing",
}
"""Other words for keys, which are spelled too differently to be guessed."""


def find_space(name: str) -> Path:
    """Find the file of a space, given as a path or as a bare name such as ``pareto.yaml``.

    Raises:
        InputError: if there is no such file; the message lists the available spaces.
    """
    candidates = [Path(name), *(folder / file for folder in SPACE_FOLDERS for file in (name, f"{name}.yaml"))]
    for path in candidates:
        if path.is_file():
            return path
    known = ", ".join(space_names()) or "none"
    raise InputError(f"{name}: no such file, and no space of this name. Spaces at hand: {known}")


def space_names() -> list[str]:
    """Bare names of all spaces that `find_space` finds, such as ``pareto.yaml``."""
    return sorted({path.name for folder in SPACE_FOLDERS for path in folder.glob("*.yaml")})


def read_resolved(model: type[Config], path: Path) -> Config:
    """Read a file that `dump_study` wrote. It has every key, so a truncated file is refused, not completed by defaults.

    Args:
        model: config class of the study.
        path: path of the file.

    Raises:
        InputError: if the file is missing, damaged or of another version.
    """
    return resolve(model, read_resolved_tree(model, path), source=str(path))


def read_resolved_tree(model: type[Config], path: Path) -> dict[str, Any]:
    """The keys of such a file, with unchecked values; arguments and errors as in `read_resolved`."""
    tree, last = read_tree(path), list(model.model_fields)[-1]
    if last not in tree or not path.read_bytes().endswith(b"\n"):
        raise InputError(f"{path}: its end is missing (the last key is {last})")
    return tree


def resolve(
    model: type[Config],
    tree: dict[str, Any],
    overrides: Sequence[str] = (),
    *,
    source: str,
    check: Callable[[Config], None] = lambda config: None,
) -> Config:
    """Validate the keys of a study.

    Args:
        model: config class of the study.
        tree: the keys; the overrides change it in place.
        overrides: ``key=value`` as typed after ``--set``.
        source: where the keys come from, for error messages.
        check: further check of the config; raises a ValueError whose message begins with the key.

    Raises:
        InputError: if a key or an override is wrong.
    """
    _refuse_other_kind(tree, model, source)
    where = f"{source} with --set {', '.join(overrides)}" if overrides else source
    of_plugins = [override for override in overrides if key_and_value(override)[0] == "plugins"]
    for override in of_plugins:
        _override(tree, override, model)
    plugins = tree.get("plugins", [])
    if not isinstance(plugins, list | tuple):
        raise InputError(f"{where}: plugins: must be a list, [{plugins}]")
    try:
        import_plugins(plugins)  # before other overrides: which keys a component has depends on what is registered
    except InputError as error:
        raise InputError(f"{where}: {error}") from error.__cause__  # what a plugin has raised
    for override in overrides:
        if override not in of_plugins:
            _override(tree, override, model)
    try:
        config = model.model_validate(tree)
        check(config)
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {problem}" for problem in _problems(error, model))) from None
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error.__cause__
    return config


def resolve_protocol(
    name: str, *, head: str | None = None, overrides: Sequence[str] = (), trial: TrialConfig | None = None
) -> ProtocolConfig:
    """A protocol of `PROTOCOLS`, optionally with another head of `HEADS` and with some keys changed.

    Those that are not published have the norm of the trial's evaluation. In l2 the trial's radius stands for 4/255 or,
    where an override alone asks for l2, one that is about as large (`radius_in_l2`).

    Raises:
        InputError: if an override is wrong.
    """
    trial = trial or TrialConfig()
    changes = [key_and_value(override) for override in overrides]
    protocol, judged = PROTOCOLS[name], trial.evaluation
    if head is not None:
        protocol = protocol.model_copy(update={"head": HEADS[head]})
    if name not in PUBLISHED and dict(changes).get("norm", judged.norm) == "l2":
        protocol = protocol.in_l2(judged.epsilon if judged.norm == "l2" else radius_in_l2(4 / 255, trial))
    tree = reduce(partial(lay, ProtocolConfig), (branch(*change) for change in changes), protocol.model_dump())
    try:
        return ProtocolConfig.model_validate(tree)
    except ValidationError as error:
        where = f"protocol {name} with --set {', '.join(overrides)}"
        raise InputError("\n".join(f"{where}: {problem}" for problem in _problems(error, ProtocolConfig))) from None


def dump_study(config: StudyConfig | ScalingConfig) -> str:
    """The study as YAML; reading it gives an equal study."""
    return dump_yaml(config.model_dump(mode="json"))


def read_tree(path: Path) -> dict[str, Any]:
    """The keys of a study as its file has them, unchecked.

    Raises:
        InputError: if the file is not valid YAML or has no keys.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: must hold keys of a study ({', '.join(StudyConfig.model_fields)}), not {tree!r}")
    return tree


def _refuse_other_kind(tree: Mapping[str, Any], model: type[Strict], source: str) -> None:
    """Refuse the keys of a search where a scaling study is read, and the other way round."""
    other, command = (ScalingConfig, "scale") if model is StudyConfig else (StudyConfig, "tune")
    own, foreign = (
        tree.keys() & (one.keys() - two.keys()) for one, two in permutations((model.model_fields, other.model_fields))
    )
    if foreign and not own:
        raise InputError(f"{source}: is for cfamc {command}, as its key {min(foreign)} shows")


def key_and_value(override: str) -> tuple[str, Any]:
    """The key and the value of ``key=value`` as typed after ``--set``.

    Raises:
        InputError: if it is no such text.
    """
    key, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"--set {override}: write key=value, as in --set budget.trials=20")
    if key.endswith(".path") and not text.startswith(("'", '"')) and text not in ("", "null", "~"):
        return key, text  # a file name may mean something else in YAML
    try:
        return key, parse_yaml(text)
    except InputError as error:
        raise InputError(f"--set {override}: in its value, {error}") from None


def _override(tree: dict[str, Any], override: str, model: type[Strict]) -> None:
    key, value = key_and_value(override)
    first, *rest = key.split(".")
    at: Any
    if first in TrialConfig.model_fields:
        first, rest = "trial", [first, *rest]
    if first not in model.model_fields:
        known = [*model.model_fields, *TrialConfig.model_fields]
        raise InputError(f"--set {override}: there is no key {first!r}{nearest(first, known)}")
    if first == "space" and rest:
        rest = [".".join(rest)]
    if first in ("trial", "base") and isinstance(tree.get("space"), dict):
        key = ".".join(rest) or first
        tree["space"] = {
            name: value for name, value in tree["space"].items() if name != key and not str(name).startswith(f"{key}.")
        }
    section, at = tree, model
    for name in [first, *rest][:-1]:
        child = section.setdefault(name, {})
        field = getattr(at, "model_fields", {}).get(name)
        at, mark = (section_of(field.annotation), component_field(field)) if field else (None, None)
        if at and child is None:  # a key of a section that is off turns it on
            child = section[name] = {}
        if mark and isinstance(child, str):  # a component given by its name alone
            child = section[name] = {mark.default.component_key(): child}
        if not isinstance(child, dict):
            raise InputError(f"--set {override}: {name} holds the value {child!r}, so it has no keys")
        section = child
    if first == "trial" and rest and not isinstance(value, Mapping):
        tree["trial"] = lay_trials(tree["trial"], branch(".".join(rest), value))
    else:
        section[[first, *rest][-1]] = value


def _problems(error: ValidationError, model: type[Strict]) -> Iterator[str]:
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)
        match problem["type"]:
            case "extra_forbidden":
                *parents, name = location
                of_trial = "trial" in model.model_fields and not parents and name in TrialConfig.model_fields
                hint = f"; did you mean trial.{name}?" if of_trial else _hint(model, parents, name)
                if owners := _owners(model, location):
                    hint = f": it belongs to {' and '.join(owners)} alone"
                yield f"unknown key {key}{hint}"
            case "string_pattern_mismatch":
                yield f"{key}: must be letters, digits, dots, dashes and underscores" + _given(problem["input"])
            case "tuple_type":
                yield f"{key}: must be a list" + _given(problem["input"])
            case "bool_type":
                yield f"{key}: must be true or false" + _given(problem["input"])
            case "missing":
                yield f"the key {key} is missing"
            case "value_error":
                message = message_of(problem)
                yield f"{key}: {message}" + _given(problem["input"]) if key else message
            case _:
                yield f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}" + _given(problem["input"])


def _given(value: object) -> str:
    if isinstance(value, Mapping | BaseModel):
        return ""
    text = repr(value)
    return f" (it is {text if len(text) <= LONGEST else text[:LONGEST] + '…'})"


def _owners(model: type[Strict], location: Sequence[str]) -> list[str]:
    """The components that have a key which the chosen component does not have."""
    field = None
    for name in location[:-1]:
        model = field.annotation if field else model  # type: ignore[assignment]
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
    mark = component_field(field) if field else None
    return [name for name, each in mark.registry.classes.items() if location[-1] in each.own_keys()] if mark else []


def _hint(model: Any, location: Iterable[str], wrong: str) -> str:
    """Which keys of a section an unknown one may have been meant for."""
    for name in location:
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        if field and (mark := component_field(field)):
            return nearest(wrong, mark.registry.keys())
        model = field.annotation if field else None
    if not hasattr(model, "model_fields"):
        return ""
    return nearest(ALSO_CALLED.get(wrong, wrong), list(model.model_fields), keys_of(model))
