"""How far an image is from what R makes of it."""

from __future__ import annotations

from alocc.parts.part import Evidence, Part, View, mean_of, pixels_to_grid


class Mse(Part):
    """Mean squared difference of x and R(x)."""

    meaning = "how far R's reconstruction is from the image"
    floor = 1e-5
    of_places = True

    def forward(self, view: View) -> Evidence:
        errors = [(view.x - x_hat).square() for x_hat in view.x_hats]  # (N, C, H, W) each
        return Evidence(
            mean_of([error.mean((1, 2, 3)) for error in errors]),
            mean_of([pixels_to_grid(error.mean(1, keepdim=True))[:, 0] for error in errors]),
        )
