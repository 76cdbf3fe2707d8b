"""Checkpoints of a trial from which other trials of its study may begin."""

from itertools import accumulate
from pathlib import Path

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.host.files import link_or_copy
from cfamc_ray.store.layout import trunk_name
from cfamc_ray.store.records import TrialFolder


def find_trunks(folder: TrialFolder, config: TrialConfig) -> list[Path]:
    """Checkpoints of trials in the same study whose epochs are the first ones of this trial, the longest first.

    Args:
        folder: folder of this trial.
        config: its config; only a trial of several stages has a trunk.
    """
    ends = accumulate(epochs for epochs, _ in config.schedule[:-1])
    names = [trunk_name(config.fingerprint_until(epochs), epochs) for epochs in ends]
    return [path for name in reversed(names) for path in sorted(folder.path.parent.glob(f"trial_*/{name}"))]


def keep_trunk(folder: TrialFolder, config: TrialConfig, epochs: int) -> None:
    """Keep a trial's present checkpoint, after `epochs` epochs, as one from which other trials may begin."""
    link_or_copy(folder.checkpoint, folder.path / trunk_name(config.fingerprint_until(epochs), epochs))
