"""Splits of a data set for pretraining, probe, validation and test (shapes as in images.py)."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.images import UNLABELLED, ImageSubset, LabelledImages
from cfamc_ray.data.sources import read_source
from cfamc_ray.data.stratification import interleaved, stratified_order


@dataclass(frozen=True, eq=False)
class Splits:
    """All images that a trial may see; the test split is not among them."""

    pretrain: ImageSubset
    probe: LabelledImages
    validation: LabelledImages
    classes: int


def load_splits(config: DataConfig, *, judged_on: DataConfig | None = None, folder: Path | None = None) -> Splits:
    """Split the training images, with each class in proportion.

    With the same seed and number of validation images, smaller splits are subsets of larger ones, and validation images
    are in neither of the other splits. Unlabelled images are used only for pretraining, in proportion to labelled ones;
    they do not change the validation images nor, if probe and pretraining may overlap, the probe images.

    Args:
        config: the data set and the number of images of each split.
        judged_on: config of the probe and validation images, if they come from another data set.
        folder: as in `read_source`.

    Raises:
        InputError: if the data set cannot be read, or has too few training images.
    """
    if judged_on is not None and judged_on != config:
        try:  # none of its images is used for pretraining
            judges = load_splits(judged_on.model_copy(update={"pretrain_images": 0}), folder=folder)
        except InputError as error:
            raise InputError(f"evaluation.transfer: {error}") from None
        return replace(judges, pretrain=load_splits(config, folder=folder).pretrain)
    source = read_source(config, folder=folder)
    labels_N, seed = source.train.labels_N, config.split_seed
    labelled, unlabelled = source.train.labelled_n, (labels_N == UNLABELLED).nonzero().flatten()
    _check_counts(config, labelled=len(labelled), unlabelled=len(unlabelled))
    order = labelled[stratified_order(labels_N[labelled], seed)]
    validation, rest = order[: config.validation_images], order[config.validation_images :]
    pool = interleaved(rest, unlabelled[stratified_order(labels_N[unlabelled], seed)])
    pretrain, left = pool[: config.pretrain_images], pool[config.pretrain_images :]
    probe = rest if config.probe_overlap else left[labels_N[left] != UNLABELLED]
    if len(probe) < config.probe_images:
        raise InputError(
            f"data.probe_images {config.probe_images} must not overlap pretraining (data.probe_overlap is false), but "
            f"only {len(probe)} of the {len(labelled)} labelled training images of {config.location or config.name} "
            "are in neither pretraining nor validation: lower the counts, or allow overlap"
        )
    return Splits(
        pretrain=ImageSubset(source.train.images_NCHW, pretrain, source.train.labels_N),
        probe=source.train.take(probe[: config.probe_images]),
        validation=source.train.take(validation),
        classes=source.classes,
    )


def load_test(config: DataConfig, *, images: int | None = None, folder: Path | None = None) -> LabelledImages:
    """Load test images, for finalists only, in a stratified order: any first N hold each class in proportion.

    Args:
        config: the data set and the seed of the order.
        images: number of images; None, or more than there are, means all.
        folder: as in `read_source`.

    Raises:
        InputError: if the data set cannot be read.
    """
    test = read_source(config, folder=folder).test
    return test.take(stratified_order(test.labels_N, config.split_seed)[:images])


def describe_test(config: DataConfig, *, images: int, folder: Path | None = None) -> dict[str, Any]:
    """Describe the images that `load_test` gives, for a record; arguments and errors as in `load_test`.

    Returns:
        ``seed`` of the order, ``images`` in the sample, ``of`` the test split's size, ``images_per_class``, and
        ``digest``: 12 hexadecimal digits that differ if the indices in the test split or their order differ.
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


def _check_counts(config: DataConfig, *, labelled: int, unlabelled: int) -> None:
    pretrain, probe, validation = config.pretrain_images, config.probe_images, config.validation_images
    needed = validation + (max(pretrain, probe) if config.probe_overlap else pretrain + probe)
    has = f"{config.location or config.name} has {labelled + unlabelled}"
    has += f", of which {labelled} are labelled: lower the counts" if unlabelled else ": lower the counts"
    if needed > labelled + unlabelled:
        learning = f"data.pretrain_images {pretrain} {'or' if config.probe_overlap else '+'} data.probe_images {probe}"
        raise InputError(f"data.validation_images {validation} + {learning} need {needed} training images, but {has}")
    if validation + probe > labelled:
        raise InputError(
            f"data.validation_images {validation} + data.probe_images {probe} need {validation + probe} labelled "
            f"training images, but {has}"
        )
