import pytest
import torch
from torch import nn

from alocc.export.convolutions import AsConvolution


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "sides"),
    [(3, 1, 0, [(9, 7)]), (3, 1, 1, [(7, 5)]), (4, 2, 1, [(14, 10), (15, 11)]), (5, 2, 2, [(13, 9), (14, 10)])],
)
def test_an_ordinary_convolution_gives_the_same_numbers(kernel, stride, padding, sides):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transposed = nn.ConvTranspose2d(3, 4, kernel, stride, padding)
        x = torch.randn(2, 3, 7, 5)
    same = AsConvolution(transposed)
    for size in sides:
        torch.testing.assert_close(same(x, size), transposed(x, output_size=size), rtol=1e-5, atol=1e-5)
