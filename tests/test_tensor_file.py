import numpy as np
import pytest
import torch

from omgsr_lib.restore.tensor_file import TensorFile


def test_it_holds_zeros_and_then_what_was_written(tmp_path):
    file = TensorFile(tmp_path / "z", (2, 5, 7))
    assert file.shape == (2, 5, 7) and file.dtype == torch.float32
    assert torch.equal(file[...], torch.zeros(2, 5, 7)) and file.path.stat().st_size == 2 * 5 * 7 * 4
    expected, part = torch.zeros(2, 5, 7), torch.randn(2, 3, 4)
    file[:, 1:4, 2:6] = part
    expected[:, 1:4, 2:6] = part
    assert torch.equal(file[...], expected)
    assert torch.equal(file[1, ::2, 3:], expected[1, ::2, 3:])


@pytest.mark.parametrize(
    "index",
    [
        ...,
        (1,),
        (0, 2, 3),
        slice(1, None),
        (slice(None), slice(1, 4), slice(2, 6)),
        (..., slice(0, 7, 3)),
        (..., 2, slice(None)),
        (slice(None), slice(1, 4)),
        (-1, slice(None, None, 2), slice(3, -1)),
        (slice(0, 1), ..., slice(5, 100)),
        (slice(2, 2), ...),
        (..., slice(None, None, -2)),
    ],
)
def test_every_index_means_what_it_means_for_an_array(tmp_path, index):
    expected = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)
    file = TensorFile(tmp_path / "z", (2, 5, 7))
    file[...] = expected.copy()
    assert np.array_equal(file[index].numpy(), expected[index])
    part = np.random.default_rng(1).random(expected[index].shape).astype(np.float32)
    file[index] = part
    expected[index] = part
    assert np.array_equal(file[...].numpy(), expected)


def test_what_is_read_is_a_copy(tmp_path):
    file = TensorFile(tmp_path / "z", (4,))
    file[:].fill_(1)
    assert torch.equal(file[:], torch.zeros(4))
    file[1:3] += torch.ones(2)
    assert torch.equal(file[:], torch.tensor([0.0, 1.0, 1.0, 0.0]))


def test_values_take_the_type_of_the_file(tmp_path):
    file = TensorFile(tmp_path / "z", (3,), torch.uint8)
    file[...] = torch.tensor([1.0, 2.0, 255.0], dtype=torch.float64)
    assert file[...].dtype == torch.uint8 and file[...].tolist() == [1, 2, 255]
    assert file.path.stat().st_size == 3


def test_zeros_take_no_space(tmp_path):
    file = TensorFile(tmp_path / "z", (1 << 30,))
    assert file.path.stat().st_size == 4 << 30 and file.path.stat().st_blocks * 512 < 1 << 20
