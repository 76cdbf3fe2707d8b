"""Which images pretrain, probe and validate a trial, and which test a finalist (shapes as in images.py)."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.trial import DataConfig
from cfamc_ray.data.images import ImageSubset, LabelledImages
from cfamc_ray.data.sources import read_source
from cfamc_ray.data.stratification import stratified_order


@dataclass(frozen=True, eq=False)
class Splits:
    """All that a trial may see; the test split is no part of it."""

    pretrain: ImageSubset
    probe: LabelledImages
    validation: LabelledImages
    classes: int


def load_splits(config: DataConfig, *, judged_on: DataConfig | None = None, folder: Path | None = None) -> Splits:
    """Split the training images, each class in proportion.

    With one seed and one number of validation images, smaller splits are parts of larger ones, and validation images
    are in neither of the others.

    Args:
        config: the source and the counts.
        judged_on: of the probe and validation images, where they come from another data set.
        folder: as for `read_source`.

    Raises:
        InputError: where the source cannot be read, or has too few training images.
    """
    if judged_on is not None and judged_on != config:
        try:  # nothing of it pretrains
            judges = load_splits(judged_on.model_copy(update={"pretrain_images": 0}), folder=folder)
        except InputError as error:
            raise InputError(f"evaluation.transfer: {error}") from None
        return replace(judges, pretrain=load_splits(config, folder=folder).pretrain)
    source = read_source(config, folder=folder)
    _check_counts(config, available=len(source.train))
    order = stratified_order(source.train.labels_N, config.split_seed)
    validation, rest = order[: config.validation_images], order[config.validation_images :]
    probe = rest if config.probe_overlap else rest[config.pretrain_images :]
    return Splits(
        pretrain=ImageSubset(source.train.images_NCHW, rest[: config.pretrain_images]),
        probe=source.train.take(probe[: config.probe_images]),
        validation=source.train.take(validation),
        classes=source.classes,
    )


def load_test(config: DataConfig, *, images: int | None = None, folder: Path | None = None) -> LabelledImages:
    """Test images, for finalists alone, in a stratified order: any first N of them hold each class in proportion.

    Args:
        config: the source and the seed of the order.
        images: how many; None, or more than there are, for all.
        folder: as for `read_source`.

    Raises:
        InputError: where the source cannot be read.
    """
    test = read_source(config, folder=folder).test
    return test.take(stratified_order(test.labels_N, config.split_seed)[:images])


def describe_test(config: DataConfig, *, images: int, folder: Path | None = None) -> dict[str, Any]:
    """Which images `load_test` gives, for a record; the arguments and errors are those of `load_test`.

    Returns:
        ``seed`` of the order, ``images`` in the sample, ``of`` how many in the test split, ``images_per_class``, and
        ``digest``: 12 hexadecimal digits that differ where the indices in the test split or their order do.
    """
    source = read_source(config, folder=folder)
    indices = stratified_order(source.test.labels_N, config.split_seed)[:images]
    return {
        "seed": config.split_seed,
        "images": len(indices),
        "of": len(source.test),
        "images_per_class": torch.bincount(source.test.labels_N[indices], minlength=source.classes).tolist(),
        "digest": hashlib.sha256(indices.numpy().tobytes()).hexdigest()[:12],
    }


def _check_counts(config: DataConfig, *, available: int) -> None:
    pretrain, probe = config.pretrain_images, config.probe_images
    needed = config.validation_images + (max(pretrain, probe) if config.probe_overlap else pretrain + probe)
    if needed > available:
        learning = f"data.pretrain_images {pretrain} {'or' if config.probe_overlap else '+'} data.probe_images {probe}"
        raise InputError(
            f"data.validation_images {config.validation_images} + {learning} need {needed} training images, "
            f"but {config.path or config.name} has {available}: lower the counts"
        )
