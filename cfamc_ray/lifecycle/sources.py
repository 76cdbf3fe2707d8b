"""Sources of a study or a run: a space, a recipe, or a trial of another study."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import find_space, read_tree
from cfamc_ray.config.recipes import VARIANTS, Variant, read_recipe, recipe_names
from cfamc_ray.store.layout import STUDY, trial_name
from cfamc_ray.store.records import damaged_records, read_config, read_trials

Space = str | os.PathLike[str] | Mapping[str, Any]
"""A path, the bare name of an included space, or a mapping of keys."""
SEARCH_KEYS = ("search", "start_from", "confirm", "reference", "loggers")
"""Keys of a space that do not apply to a single run."""


@dataclass(frozen=True)
class Source:
    """The keys of a study or a run before they are validated."""

    keys: Mapping[str, Any]
    label: str
    """Name of the source in error messages."""
    base_folder: Path = Path()
    """Folder in which relative paths are looked up after the working directory."""
    trial: Path | None = None
    """Folder of the trial, if the run repeats a trial of a study."""

    def tree(self, plugins: Sequence[str] = ()) -> dict[str, Any]:
        """A copy of the keys, with further plugins.

        Args:
            plugins: modules that register components, imported after those that the keys name.

        Raises:
            InputError: if `plugins` is a single string.
        """
        tree = copy.deepcopy(dict(self.keys))
        if plugins:
            named = tree.get("plugins") or []
            tree["plugins"] = list(dict.fromkeys([*named, *as_list(plugins, "plugins")]))
        return tree

    def studies_with_the_same_images(self, overrides: Sequence[str]) -> list[Path]:
        """Folders of studies whose images the run must share, unless an override names others."""
        others = any(f"{text.partition('=')[0]}.".startswith(("data.", "evaluation.transfer.")) for text in overrides)
        return [self.trial.resolve().parent] if self.trial and not others else []


def as_list(texts: Sequence[str], argument: str) -> Sequence[str]:
    """Return the texts unchanged, and refuse a single string.

    Args:
        texts: value of the argument.
        argument: name of the argument, for the error.

    Raises:
        InputError: if it is a single string, which is a sequence of letters.
    """
    if isinstance(texts, str):
        raise InputError(f"{argument}: write a list, [{texts!r}]")
    return texts


def space_source(space: Space) -> Source:
    """The source of a space, given as a path, a name or a mapping.

    Raises:
        InputError: if it is none of these, or the file cannot be read.
    """
    if isinstance(space, Mapping):
        return Source(space, "the space")
    if not isinstance(space, str | os.PathLike):
        raise InputError(f"{space!r}: a space is a path, a name or a mapping")
    path = find_space(os.fspath(space))
    return Source(read_tree(path), str(path), path.parent)


def run_source(recipe_or_space: Space, variant: Variant) -> Source:
    """The source of a run: a recipe's name, a trial's folder or a space.

    Args:
        recipe_or_space: as in `cfamc_ray.train`.
        variant: variant of a recipe.

    Raises:
        InputError: if there is no such recipe, trial or space.
    """
    if isinstance(recipe_or_space, str) and recipe_or_space in recipe_names():
        return recipe_source(recipe_or_space, variant)
    if isinstance(recipe_or_space, str | os.PathLike) and Path(recipe_or_space).is_dir():
        return trial_source(Path(recipe_or_space), variant)
    if variant != VARIANTS[0]:
        raise InputError("variant: a space sets its own variant; leave it out")
    if isinstance(recipe_or_space, str | os.PathLike):
        try:
            find_space(os.fspath(recipe_or_space))
        except InputError as error:
            raise InputError(f"{error}. Recipes: {', '.join(recipe_names())}") from None
    source = space_source(recipe_or_space)
    keys = {key: value for key, value in source.keys.items() if key not in SEARCH_KEYS}
    return Source(keys, source.label, source.base_folder)


def recipe_source(name: str, variant: Variant) -> Source:
    """The source of a run of a recipe.

    Raises:
        InputError: if there is no such recipe.
    """
    recipe = read_recipe(name)
    suffix = "" if variant == VARIANTS[0] else f"-{variant}"
    keys = {"name": recipe.name + suffix, "base": recipe.name, "variant": variant, "question": recipe.summary}
    return Source(keys, f"recipe {name}")


def trial_source(folder: Path, variant: Variant) -> Source:
    """The source of a run that repeats a trial of a study, whatever its recipe and variant.

    Raises:
        InputError: if the folder holds no trial, or a variant is given.
    """
    path = folder.resolve()
    if (path / STUDY).is_file():
        raise InputError(f"--trial {folder}: is a study; name one of its trials, such as {folder / trial_name(0)}")
    config = read_config(path.parent)
    record = next((record for record in read_trials(path.parent) if record.trial_id == path.name), None)
    if record is None:
        damages = [
            f" ({damage.path.name}: {damage.why})"
            for damage in damaged_records(path.parent)
            if path in damage.path.parents
        ]
        remedy = f"name one such as {path.parent / trial_name(0)}"
        raise InputError(f"--trial {folder}: holds no trial{''.join(damages)}; {remedy}")
    if variant != VARIANTS[0]:
        raise InputError("--variant: a trial has the variant of its study; leave it out")
    keys = {
        "name": f"{config.name}-{record.trial_id}",
        "question": f"{record.trial_id} of {config.name}",
        "plugins": list(config.plugins),
        "trial": config.trial_at(record.point).model_dump(mode="json"),
    }
    return Source(keys, str(folder), trial=folder)
