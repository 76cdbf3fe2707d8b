"""Random numbers of a trial: each generator is seeded by the trial's seed and the place in the run.

So a trial holds no random state, and one that is resumed draws what it would have drawn.
"""

import numpy as np
import torch

WEIGHTS, ORDER, CROPS, ATTACK = range(4)
"""What a generator is for; part of its seed."""


def make_generator(seed: int, purpose: int, *place: int) -> torch.Generator:
    """A generator on the CPU.

    Args:
        seed: of the trial.
        purpose: one of the constants of this module.
        place: in the run, such as epoch and step.
    """
    return torch.Generator().manual_seed(make_seed(seed, purpose, *place))


def make_seed(*words: int) -> int:
    """A 63-bit seed that differs wherever any of the words does."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
