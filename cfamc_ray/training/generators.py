"""Random numbers of a trial: each generator is seeded by the trial's seed and the position in the run.

So a trial holds no random state, and a resumed trial draws the same numbers as an uninterrupted one.
"""

import numpy as np
import torch

WEIGHTS, ORDER, CROPS, ATTACK = range(4)
"""Purposes of generators; part of their seeds."""


def make_generator(seed: int, purpose: int, *place: int) -> torch.Generator:
    """Create a generator on the CPU.

    Args:
        seed: seed of the trial.
        purpose: one of the constants of this module.
        place: position in the run, such as epoch and step.
    """
    return torch.Generator().manual_seed(make_seed(seed, purpose, *place))


def make_seed(*words: int) -> int:
    """A 63-bit seed that differs if any of the words differs."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
