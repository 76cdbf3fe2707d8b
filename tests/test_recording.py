"""What an exception means for its trial."""

import pytest
import torch
import torch.distributed as dist

from cfamc_ray.recording import ends_trial
from cfamc_ray.trial import OutOfTime, TrialFailed


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OutOfTime("too long"), ("stopped", "too long")),
        (TrialFailed("diverged"), ("failed", "diverged")),
        (torch.OutOfMemoryError("too much\nmany details"), ("failed", "out of memory: too much")),
        (ValueError("odd"), ("failed", "ValueError: odd")),
        (RuntimeError("shapes"), ("failed", "RuntimeError: shapes")),
        (RuntimeError("CUDA error: unspecified launch failure"), None),
        (dist.DistBackendError("NCCL communicator was aborted"), None),
        (RuntimeError("[gloo/transport/tcp/pair.cc:545] Connection reset by peer"), None),
    ],
    ids=str,
)
def test_an_error_ends_the_trial_unless_a_fresh_process_may_do_better(
    error: Exception, outcome: tuple[str, str] | None
) -> None:
    assert ends_trial(error) == outcome
