"""Which images a trial sees."""

from typing import Literal

from pydantic import Field, model_validator

from cfamc_ray.config.types import Strict


class DataConfig(Strict):
    """Which images, and how many of them pretrain, probe and validate."""

    name: Literal["digits", "cifar10", "cifar100", "npz", "imagefolder"] = "cifar10"
    """`digits` ships with scikit-learn; `cifar10` and `cifar100` are torchvision's; `npz` is a file with x_train,
    y_train, x_test, y_test; `imagefolder` is a folder with one folder of images for each class. Training images of the
    last two may be unlabelled: label -1 in y_train, a folder `unlabelled`."""
    path: str | None = None
    """The file of `npz` or the folder of `imagefolder`; a relative path is looked up in the working directory, then in
    the folder that the environment variable CFAMC_DATA names."""
    image_size: int = Field(default=32, ge=8, le=1024)
    """Height and width in pixels to which `digits` and `imagefolder` are resized once; other sources keep theirs."""
    pretrain_images: int = Field(default=45_000, ge=2)
    """Images that pretraining sees, without their labels; unlabelled ones are among them in proportion."""
    probe_images: int = Field(default=45_000, ge=2)
    """Labelled training images that the linear probe is fitted on."""
    probe_overlap: bool = True
    """Whether the probe may be fitted on images that pretraining saw too."""
    validation_images: int = Field(default=5_000, ge=0)
    """Labelled training images held out of pretraining and probe; a search is judged on them alone. 0: nothing is
    measured while it trains, as where all images pretrain."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the stratified split and of every sample of test images; it is not the trial's seed, so that all trials
    are judged on the same images."""

    @model_validator(mode="after")
    def _path_where_needed(self) -> "DataConfig":
        if self.name in ("npz", "imagefolder") and self.path is None:
            raise ValueError(f"path is missing: name the {'file' if self.name == 'npz' else 'folder'} of {self.name}")
        if self.name not in ("npz", "imagefolder") and self.path is not None:
            raise ValueError(f"path is only for npz and imagefolder; {self.name} needs none")
        return self
