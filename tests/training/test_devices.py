"""What computes evidence moves to a device; what fuses it stays on the CPU, in float64 (MPS has no float64)."""

from alocc.config import preset
from alocc.data.frame import Frame
from alocc.data.resizing import ImageFormat
from alocc.scorer import Scorer


def test_only_what_computes_evidence_moves():
    scorer = Scorer(preset("robust"), Frame(ImageFormat(32, 40, 3))).compute_on(
        "meta"
    )  # a device that all machines have
    assert {value.device.type for value in scorer.parts.state_dict().values()} == {"meta"}
    for fusion in (scorer.fusion, scorer.map_fusion):
        assert {value.device.type for value in fusion.state_dict().values()} == {"cpu"}
