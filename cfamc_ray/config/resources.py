"""The CPU cores, GPUs and memory that a study may use."""

from pydantic import Field, model_validator

from cfamc_ray.config.types import Real, Strict


class ResourceConfig(Strict):
    """How many trials run at once, and what each may use."""

    trials_at_once: int = Field(default=1, ge=1)
    """Number of trials that train at the same time."""
    workers_per_trial: int = Field(default=1, ge=1)
    """Data-parallel workers of a trial; each takes an equal share of every minibatch."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """CPU cores of each worker, which is also its number of threads."""
    gpus_per_worker: Real = Field(default=0.0, ge=0)
    """GPUs of each worker: 0 (CPUs only), a fraction such as 0.5 (two workers share one GPU), or 1."""
    minutes_per_trial: Real | None = Field(default=None, gt=0)
    """Time limit of a trial in minutes; a trial that takes longer is stopped. Null: no limit."""
    memory_gb_per_worker: Real | None = Field(default=None, gt=0)
    """Memory limit of a worker in gigabytes. A point that is expected to need more is refused before it starts, once
    trials of two sizes, or a scaling study (`--costs`), have shown how memory grows. Null: an equal share of the memory
    of the GPU or of this machine."""
    restarts: int = Field(default=2, ge=0)
    """How often a trial whose process was killed is restarted from its last epoch."""
    wait_minutes: Real = Field(default=10, ge=0)
    """Minutes to wait for an autoscaling cluster (`--address`) to start the machines that the study needs at once."""

    @model_validator(mode="after")
    def _one_gpu(self) -> "ResourceConfig":
        if self.gpus_per_worker > 1:
            raise ValueError(f"gpus_per_worker must not exceed 1, not {self.gpus_per_worker}: add workers instead")
        if self.workers_per_trial > 1:
            self.check_sharing()
        return self

    def check_sharing(self) -> None:
        """Refuse several workers on one GPU, which NCCL cannot connect.

        Raises:
            ValueError: if each worker of a trial has a fraction of a GPU.
        """
        if 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"gpus_per_worker must be 0 or 1 for several workers, not {self.gpus_per_worker}: NCCL cannot connect "
                "two workers on one GPU; let several trials share it (trials_at_once) instead"
            )

    @property
    def cpus_at_once(self) -> int:
        """CPU cores that all concurrent trials need."""
        return self.trials_at_once * self.workers_per_trial * self.cpus_per_worker

    @property
    def gpus_at_once(self) -> float:
        """GPUs that all concurrent trials need."""
        return self.trials_at_once * self.workers_per_trial * self.gpus_per_worker
