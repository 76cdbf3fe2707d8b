"""Share images: the driver reads them, and Ray keeps one copy for all processes of a machine."""

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
"""Data sets, and Ray's references to their images."""


def share_sources(study: StudyConfig) -> SharedSources:
    """Put the images of a study's first trial into Ray's object store; other data sets of a space are read on demand.

    Memory-mapped images are not shared: every machine maps its own cache of them, which may exceed the memory.
    """
    trial = SearchSpace(study).first_trial
    kept = [config for config in dict.fromkeys((trial.data, trial.judged_on)) if not config.is_mapped]
    return [(pack(config, study.plugins), ray.put(_arrays(read_source(config)))) for config in kept]


def take_sources(shared: SharedSources) -> None:
    """Use the copy of the images on this machine, which Ray fetches once, instead of reading from disk."""
    for packed, reference in shared:
        class_names, *arrays = ray.get(reference)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about read-only arrays, which are never written
            train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays)
        train, test = LabelledImages(train_images, train_labels), LabelledImages(test_images, test_labels)
        hold_source(packed.unpack(), Source(train, test, class_names))


def _arrays(source: Source) -> tuple[Any, ...]:
    splits = (source.train, source.test)
    return source.class_names, *(part.numpy() for split in splits for part in (split.images_NCHW[:], split.labels_N))
