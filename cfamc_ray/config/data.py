"""Data sets by name, and how many images are used for pretraining, probe and validation."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from cfamc_ray.config.components import Component, ComponentField, Registry
from cfamc_ray.config.types import Strict

Side = Annotated[int, Field(ge=8, le=1024)]


class DataConfig(Component):
    """A data set, and how many of its images are used for each purpose.

    `build(path, folder)` reads all images as a `cfamc_ray.data.images.Source`; `path` is where `location` was found,
    `folder` is for caches and downloads. A key `path` is the location of the images; it is not part of their identity.
    """

    needs_folder: ClassVar[bool] = False
    """Whether reading needs the folder of data sets and caches."""
    is_packed: ClassVar[bool] = False
    """Whether a file NAME.npz in that folder may replace the download."""
    is_folder: ClassVar[bool] = False
    """Whether `location` is a folder, all of whose files belong to the data set, instead of a file."""
    is_mapped: ClassVar[bool] = False
    """Whether images stay on disk, mapped into memory, because they may exceed the memory."""

    name: str
    """Name of the data set."""
    pretrain_images: int = Field(default=45_000, ge=2)
    """Number of images for pretraining, without labels; unlabelled images are included in proportion."""
    probe_images: int = Field(default=45_000, ge=2)
    """Number of labelled training images on which the linear probe is fitted."""
    probe_overlap: bool = True
    """Whether the probe may be fitted on images of pretraining."""
    validation_images: int = Field(default=5_000, ge=0)
    """Number of labelled training images held out of pretraining and probe; a search is evaluated only on them. 0:
    nothing is evaluated during training, for example if all images are used for pretraining."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the stratified split and of every sample of test images; separate from the trial's seed, so that all
    trials are evaluated on the same images."""

    @property
    def location(self) -> str | None:
        """The file or folder that holds the images; None for a data set that comes with a library."""
        return getattr(self, "path", None)

    @property
    def side(self) -> int | None:
        """Height and width of the images in pixels (they are square); None if known only after reading."""
        return getattr(self, "image_size", None)

    @property
    def resized(self) -> int | None:
        """Height and width in pixels to which images are resized when they are read; None if they are not resized."""
        return getattr(self, "image_size", None)

    def source(self) -> Self:
        """The same data set with default splits, so that configs of equal images compare equal."""
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
    """Height and width in pixels to which images are resized when they are read."""


@DATA_SETS.register
class NpzConfig(DataConfig):
    """A file with x_train, y_train, x_test, y_test; a label of -1 in y_train marks an unlabelled image."""

    implementation: ClassVar[str] = "cfamc_ray.data.sources:read_npz"

    name: Literal["npz"] = "npz"
    path: str
    """Path of the file; a relative path is looked up in the working directory, then in the folder of the environment
    variable CFAMC_DATA."""


@DATA_SETS.register
class ImageFolderConfig(DataConfig):
    """A folder with one folder of images for each class; training images in a folder `unlabelled` have no class."""

    implementation: ClassVar[str] = "cfamc_ray.data.imagefolder:read_configured"
    needs_folder: ClassVar[bool] = True
    is_folder: ClassVar[bool] = True
    is_mapped: ClassVar[bool] = True

    name: Literal["imagefolder"] = "imagefolder"
    path: str
    """Path of the folder; a relative path is looked up as for `npz`."""
    image_size: Side = 32
    """Height and width in pixels to which images are resized when they are read."""


DataSet = Annotated[DataConfig, ComponentField(DATA_SETS, Cifar10Config)]


class _Parsed(Strict):
    data: DataSet


def parse_data(**keys: Any) -> DataConfig:
    """Create a data set from its keys, which include ``name``.

    Raises:
        pydantic.ValidationError: if a key or a value is wrong.
    """
    return _Parsed.model_validate({"data": keys}).data
