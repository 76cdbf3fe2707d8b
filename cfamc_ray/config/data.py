"""Which images a trial sees: data sets by name, and how many images pretrain, probe and validate."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from cfamc_ray.config.components import Component, ComponentField, Registry
from cfamc_ray.config.types import Strict

Side = Annotated[int, Field(ge=8, le=1024)]


class DataConfig(Component):
    """A data set, and how many of its images are used for what.

    `build(path, folder)` reads it whole, as a `cfamc_ray.data.images.Source`; `path` is where `location` was found, and
    `folder` is for caches and downloads. A key `path` is where the images lie, and no part of what they are.
    """

    needs_folder: ClassVar[bool] = False
    """Whether reading needs the folder of data sets and caches."""
    is_packed: ClassVar[bool] = False
    """Whether a file NAME.npz in that folder may stand for the data set."""
    is_folder: ClassVar[bool] = False
    """Whether `location` is a folder, all of whose files count; else it is a file."""
    is_mapped: ClassVar[bool] = False
    """Whether images stay on disk, mapped into memory, as they may be larger than the memory."""

    name: str
    """Of the data set."""
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

    @property
    def location(self) -> str | None:
        """The file or folder that holds the images; None for a data set that a library brings along."""
        return getattr(self, "path", None)

    @property
    def side(self) -> int | None:
        """Height and width of the images in pixels, which are quadratic; None where they must be read to know."""
        return getattr(self, "image_size", None)

    @property
    def resized(self) -> int | None:
        """Height and width to which images are resized when they are read; None where they keep theirs."""
        return getattr(self, "image_size", None)

    def source(self) -> Self:
        """The same data set, whatever its images are used for."""
        own = DataConfig.model_fields
        return self.model_copy(update={key: field.default for key, field in own.items() if key != "name"})


DATA_SETS = Registry[DataConfig]("data set")


@DATA_SETS.register
class Cifar10Config(DataConfig):
    """CIFAR-10, downloaded by torchvision."""

    implementation: ClassVar[str] = "cfamc_ray.data.sources:read_cifar"
    needs_folder: ClassVar[bool] = True
    is_packed: ClassVar[bool] = True

    name: Literal["cifar10"] = "cifar10"

    @property
    def side(self) -> int:
        """See the base class."""
        return 32


@DATA_SETS.register
class Cifar100Config(DataConfig):
    """CIFAR-100, downloaded by torchvision."""

    implementation: ClassVar[str] = "cfamc_ray.data.sources:read_cifar"
    needs_folder: ClassVar[bool] = True
    is_packed: ClassVar[bool] = True

    name: Literal["cifar100"] = "cifar100"

    @property
    def side(self) -> int:
        """See the base class."""
        return 32


@DATA_SETS.register
class DigitsConfig(DataConfig):
    """1,797 handwritten digits that ship with scikit-learn."""

    implementation: ClassVar[str] = "cfamc_ray.data.sources:read_digits"

    name: Literal["digits"] = "digits"
    image_size: Side = 32
    """Height and width in pixels to which images are resized once."""


@DATA_SETS.register
class NpzConfig(DataConfig):
    """A file with x_train, y_train, x_test, y_test; a label of -1 in y_train is that of an unlabelled image."""

    implementation: ClassVar[str] = "cfamc_ray.data.sources:read_npz"

    name: Literal["npz"] = "npz"
    path: str
    """The file; a relative path is looked up in the working directory, then in the folder that the environment variable
    CFAMC_DATA names."""


@DATA_SETS.register
class ImageFolderConfig(DataConfig):
    """A folder with one folder of images for each class; training images in a folder `unlabelled` have no class."""

    implementation: ClassVar[str] = "cfamc_ray.data.imagefolder:read_configured"
    needs_folder: ClassVar[bool] = True
    is_folder: ClassVar[bool] = True
    is_mapped: ClassVar[bool] = True

    name: Literal["imagefolder"] = "imagefolder"
    path: str
    """The folder; a relative path is looked up as for `npz`."""
    image_size: Side = 32
    """Height and width in pixels to which images are resized once."""


DataSet = Annotated[DataConfig, ComponentField(DATA_SETS, Cifar10Config)]


class _Parsed(Strict):
    data: DataSet


def parse_data(**keys: Any) -> DataConfig:
    """A data set from its keys, ``name`` among them.

    Raises:
        pydantic.ValidationError: for whatever is wrong with them.
    """
    return _Parsed.model_validate({"data": keys}).data
