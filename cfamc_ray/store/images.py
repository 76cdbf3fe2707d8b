"""Which images a study uses, wherever they and it lie.

A study is identified by what its images hold, never by their path. images.json keeps a digest of each data set and
where it lay; study.yaml keeps a path relative to itself, so that a project can be moved, copied or mounted as a whole.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import Config
from cfamc_ray.host.files import is_text, write_text
from cfamc_ray.store.content import content_of, json_object
from cfamc_ray.store.layout import IMAGES

Digests = Mapping[str, str]
"""Key of a trial, such as ``data``, to the digest of its images."""


def paths_of(config: Config) -> dict[str, Path]:
    """The dotted keys of a trial that hold a path, and their paths."""
    return {f"{key}.path": Path(data.location) for key, data in data_of(config).items() if data.location}


def data_of(config: Config) -> dict[str, DataConfig]:
    """The data sets that all trials share, by their key."""
    every = {"data": config.trial.data, "evaluation.transfer": config.trial.evaluation.transfer}
    return {key: data for key, data in every.items() if data is not None}


def with_paths(config: Config, paths: Mapping[str, Path]) -> Config:
    """The same config with other paths of its data sets."""
    values = {key: str(path) for key, path in paths.items()}
    return config.model_copy(update={"trial": config.trial.with_values(values)}) if values else config


def found_from(config: Config, folder: Path) -> Config:
    """The same config with absolute paths of its data sets, which are valid in other processes too.

    Args:
        config: as a person wrote it.
        folder: of the space file, where a relative path is looked up after the working directory. What is in neither
            stays as it is: it may be in the folder that CFAMC_DATA names.

    Raises:
        InputError: where a path cannot be written down.
    """
    found = {key: _existing(path.expanduser(), folder / path) for key, path in paths_of(config).items()}
    absolute = {key: path for key, path in found.items() if path}
    for key, path in absolute.items():
        if not is_text(str(path)):
            raise InputError(f"{key} {path}: its name is not valid UTF-8; rename it, or name a link to it")
    return with_paths(config, absolute)


def at_place(data: DataConfig, path: Path) -> DataConfig:
    """A data set whose images are now elsewhere, by an absolute path if it exists from the working directory on."""
    return data.model_copy(update={"path": str(_existing(path.expanduser()) or path)})


def _existing(*places: Path) -> Path | None:
    """The absolute path of the first place that exists."""
    return next((place.resolve() for place in places if place.exists()), None)


def portable(config: Config, study: Path) -> Config:
    """The same config as study.yaml keeps it: paths relative to the study, unless they share no folder with it."""
    study = study.resolve()  # as the paths are: a .. after a link leads elsewhere than it reads
    absolute = {key: path for key, path in paths_of(config).items() if path.is_absolute()}
    near = {key: path for key, path in absolute.items() if len(Path(os.path.commonpath([path, study])).parts) > 1}
    return with_paths(config, {key: Path(os.path.relpath(path, study)) for key, path in near.items()})


def located(config: Config, study: Path) -> Config:
    """The inverse of `portable`, wherever the study lies now.

    Where a path leads nowhere, the images may have stayed where they lay when the study ran, or have been put into the
    folder that CFAMC_DATA names.
    """
    study = study.resolve()
    return with_paths(config, {key: _place(study, key, path) for key, path in paths_of(config).items()})


def _place(study: Path, key: str, path: Path) -> Path:
    """Where the images of a key are; if they are nowhere, where they were expected."""
    places = [study / path, Path(_noted(study).get(key.removesuffix(".path"), {}).get("path") or path)]
    if folder := os.environ.get("CFAMC_DATA"):
        places += [Path(folder) / path, Path(folder) / path.name]
    expected = study / path if ".." in path.parts else path
    return _existing(*places) or Path(os.path.normpath(expected))


def _noted(study: Path) -> Mapping[str, Mapping[str, str]]:
    return content_of(study / IMAGES, noted_images) or {}


def noted_images(text: str) -> Mapping[str, Mapping[str, str]]:
    """Digest and path of each data set, from the text of images.json.

    Raises:
        ValueError: where the text holds something else.
    """
    tree = json_object(text)
    of_each = [each if isinstance(each, dict) else {} for each in tree.values()]
    if not all(isinstance(each.get(name), str) for each in of_each for name in ("digest", "path")):
        raise ValueError("holds no digests of images")
    return tree


def check_same(study: Path, digests: Digests, *, config: Config) -> None:
    """Refuse other images than those that a study began with.

    Args:
        study: its folder.
        digests: of the images as they are now.
        config: of the study, with the paths as they are now.

    Raises:
        InputError: where a digest differs.
    """
    data, noted = data_of(config), _noted(study)
    for key, digest in digests.items():
        if noted.get(key, {}).get("digest", digest) != digest:
            raise InputError(
                f"{key} {data[key].location or data[key].name}: holds other images than those that {study} began with: "
                f"name the same ones with --set {key}.path=PATH, or another study with --set name=NAME"
            )


def note(study: Path, digests: Digests, *, config: Config) -> None:
    """Write the digests and paths of the images into images.json; arguments as for `check_same`."""
    data, noted = data_of(config), _noted(study)
    now = {key: {"digest": digest, "path": str(data[key].location or "")} for key, digest in digests.items()}
    if {**noted, **now} != noted:
        write_text(study / IMAGES, json.dumps({**noted, **now}, indent=1) + "\n")


def same_images(one: Path, other: Path) -> bool:
    """Whether two studies use the same images, as far as both know their digests."""
    mine, theirs = _noted(one), _noted(other)
    return all(mine[key].get("digest") == theirs[key].get("digest") for key in mine.keys() & theirs.keys())
