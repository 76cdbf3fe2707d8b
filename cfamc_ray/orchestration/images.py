"""Images once on each machine: the driver reads them, and Ray keeps one copy for all processes of a node."""

import warnings
from typing import Any

import ray
import torch

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.images import LabelledImages, Source
from cfamc_ray.data.sources import hold_source, read_source
from cfamc_ray.orchestration.packing import Packed, pack
from cfamc_ray.space.search_space import SearchSpace

SharedSources = list[tuple[Packed[DataConfig], Any]]
"""Data sets, and where Ray keeps them."""


def share_sources(study: StudyConfig) -> SharedSources:
    """Hand the images of a study's trials to Ray; what a space varies beyond the first is read where it is needed.

    Images that are mapped into memory are left where they are: every machine maps its own cache of them, which may be
    larger than the memory.
    """
    trial = SearchSpace(study).first_trial
    kept = [config for config in dict.fromkeys((trial.data, trial.judged_on)) if not config.is_mapped]
    return [(pack(config, study.plugins), ray.put(_arrays(read_source(config)))) for config in kept]


def take_sources(shared: SharedSources) -> None:
    """Read the images from the copy on this machine, which Ray fetches once, instead of from its disk."""
    for packed, reference in shared:
        class_names, *arrays = ray.get(reference)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch: the arrays are read-only, and so they stay
            train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays)
        train, test = LabelledImages(train_images, train_labels), LabelledImages(test_images, test_labels)
        hold_source(packed.unpack(), Source(train, test, class_names))


def _arrays(source: Source) -> tuple[Any, ...]:
    splits = (source.train, source.test)
    return source.class_names, *(part.numpy() for split in splits for part in (split.images_NCHW, split.labels_N))
