import pytest
import torch

from alocc.synthesis.faults import crack, pits, planted, spot, stain, with_spots


@pytest.fixture
def stream():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [spot, crack, pits, stain])
def test_a_shape_is_small_and_somewhere_in_the_image(shape, stream):
    drawn = torch.cat([shape(1, (160, 120), 2.0, stream) for _ in range(40)])
    assert drawn.shape == (40, 1, 160, 120) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    area = (drawn > 0.5).flatten(1).sum(1)
    assert int((area > 0).sum()) >= 38 and int(area.max()) < 160 * 120 // 20
    where = (drawn > 0.5).any(0)[0]
    assert where[:80].any() and where[80:].any() and where[:, :60].any() and where[:, 60:].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_outside_a_fault_an_image_keeps_its_pixels(channels, stream):
    x = 0.4 + 0.2 * torch.rand((24, channels, 96, 128), generator=stream)
    faulty, is_fault = planted(x, stream, 4.0)
    changed = (faulty - x).abs().amax(1, keepdim=True)
    assert faulty.shape == x.shape and is_fault.shape == (24, 1, 96, 128)
    assert float(faulty.min()) >= 0 and float(faulty.max()) <= 1
    far = torch.nn.functional.max_pool2d(is_fault.float(), 31, 1, 15) == 0
    assert float(changed[far].max()) < 0.05
    assert float(changed[is_fault].mean()) > 0.05


def test_strength_makes_faults_larger_and_stronger(stream):
    x = 0.4 + 0.2 * torch.rand((40, 1, 96, 128), generator=stream)
    change = [
        float((planted(x, torch.Generator().manual_seed(1), strength)[0] - x).abs().mean())
        for strength in (1.0, 2.0, 4.0)
    ]
    assert change[1] > 2 * change[0] and change[2] > 2 * change[1]


def test_a_spot_has_its_diameter_and_goes_where_there_is_room():
    """On a grey of .2 a spot is brighter, on .8 darker, by four deviations, here of at least .02: .08."""
    for level, sign in ((0.2, 1), (0.8, -1)):
        x = torch.full((3, 1, 40, 60), level)
        spotted = with_spots(x, 8, 4.0, torch.Generator().manual_seed(0))
        change = spotted - x
        assert torch.allclose(change.abs().amax((1, 2, 3)), torch.full((3,), 0.08), atol=1e-6)
        assert (sign * change >= 0).all()
        area = change.abs().sum((1, 2, 3)) / 0.08
        assert (area < 1.2 * torch.pi * 16).all()
        assert area.max() > 0.9 * torch.pi * 16  # where none of it is beyond the border
