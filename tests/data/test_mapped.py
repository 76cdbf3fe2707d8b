"""Images in a file that is larger than the memory that a process may take."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cfamc_ray.data.images import ImageSubset, LabelledImages
from cfamc_ray.data.mapped import MappedImages, header, map_images


@pytest.fixture
def images(tmp_path: Path) -> MappedImages:
    """Ten images, each of its own number."""
    return written(tmp_path / "images.npy", np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1).repeat(3, 1))


def written(path: Path, pixels_NCHW: np.ndarray) -> MappedImages:
    N, C, H, W = pixels_NCHW.shape
    path.write_bytes(header((N, C, H, W)) + pixels_NCHW.tobytes())
    mapped = map_images(path, (N, C, H, W))
    assert mapped is not None
    return mapped


def numbers(images_NCHW: torch.Tensor) -> list[int]:
    return images_NCHW[:, 0, 0, 0].tolist()


def test_numpy_reads_the_file_too(images: MappedImages, tmp_path: Path) -> None:
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "images.npy")), images[:])


def test_images_are_indexed_as_a_tensor_is(images: MappedImages) -> None:
    assert (len(images), images.shape) == (10, (10, 3, 1, 1))
    assert images[3].shape == (3, 1, 1)
    assert numbers(images[torch.tensor([4, 0, 4])]) == [4, 0, 4]
    assert numbers(images[7:]) == [7, 8, 9]
    assert [int(image_CHW[0, 0, 0]) for image_CHW in images] == list(range(10))
    with pytest.raises(IndexError):
        images[10]


def test_a_selection_of_a_selection_keeps_its_order(images: MappedImages) -> None:
    selected = images.take(torch.tensor([9, 2, 5])).take(torch.tensor([2, 0]))
    assert (selected.shape, numbers(selected[:])) == ((2, 3, 1, 1), [5, 9])


def test_labelled_images_of_a_file_are_taken_without_being_read(images: MappedImages) -> None:
    taken = LabelledImages(images, torch.arange(10)).take(torch.tensor([8, 1]))
    assert isinstance(taken.images_NCHW, MappedImages)
    assert numbers(taken.images_NCHW[:]) == taken.labels_N.tolist() == [8, 1]


def test_what_is_read_may_be_written_to_and_the_file_stays(images: MappedImages) -> None:
    read = images[:2]
    read += 100
    assert numbers(images[:2]) == [0, 1]


def test_a_subset_of_a_file_moves_to_a_device(images: MappedImages) -> None:
    moved = ImageSubset(images, torch.tensor([3, 1])).to(torch.device("meta"))
    assert moved.images_NCHW.shape == (2, 3, 1, 1)


READ = """
import resource, sys
from pathlib import Path
import torch
from cfamc_ray.cost.memory import peak_memory_bytes, reset_peak_memory
from cfamc_ray.data.images import ImageSubset
from cfamc_ray.data.mapped import map_images

CPU = torch.device("cpu")
count, limit = 4000, 100 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit + int(open("/proc/self/statm").read().split()[5]) * 4096,) * 2)
images = map_images(Path(sys.argv[1]), (count, 3, 224, 224))
subset = ImageSubset(images, torch.randperm(count))
subset.batch(torch.arange(64))
reset_peak_memory(CPU)
before, total = peak_memory_bytes(CPU), 0
for positions in torch.arange(count).split(64):
    total += int(subset.batch(positions)[:, 0, 0, 0].sum())
print(total, peak_memory_bytes(CPU) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux counts it")
def test_memory_stays_flat_while_a_file_is_read_that_exceeds_the_limit(tmp_path: Path) -> None:
    """600 MB in batches of 10 MB, by a process that may allocate 100 MB."""
    count, each = 4000, 3 * 224 * 224
    with (tmp_path / "images.npy").open("wb") as file:  # sparse
        begins = file.write(header((count, 3, 224, 224)))
        file.truncate(begins + count * each)
        for n in range(count):
            os.pwrite(file.fileno(), b"\x01", begins + n * each)
    ran = subprocess.run(
        [sys.executable, "-c", READ, tmp_path / "images.npy"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    total, more = map(int, ran.stdout.split())
    assert total == count, "every image was read"
    assert more < 50 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="sizes of mappings are limited so on Linux")
def test_a_file_may_be_larger_than_the_machine_s_memory(tmp_path: Path) -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    count = 3 * pages // (3 * 224 * 224)
    with (tmp_path / "images.npy").open("wb") as file:
        file.truncate(file.write(header((count, 3, 224, 224))) + count * 3 * 224 * 224)
    images = map_images(tmp_path / "images.npy", (count, 3, 224, 224))
    assert images is not None
    assert images[count - 1].sum() == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < pages
