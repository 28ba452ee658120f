"""What each choice of the robust preset is worth: change one at a time, over a digit and two sets of the suite.

    python benchmarks/ablation.py RESULTS

Writes RESULTS/ablation/, a folder for each variant, and goes on where it stopped; benchmarks/trust.py makes a table of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from image_sets import SUITE, load_task

from alocc.benchmark.protocols import make_cells
from alocc.benchmark.running import run_cells
from alocc.config import preset, with_settings

STATISTICS = "spectrum=0.5, texture=0.5, quarters=1.0, sixteenths=0.5, neighbours=0.5"
ADAM = "{learning_rate=2e-4, betas=[0.5, 0.9]}"
VARIANTS = {
    "robust": [],
    "no D: statistics alone": [f"scoring={{{STATISTICS}}}"],
    "no statistics: D of pairs alone": ["scoring={d=1.0}"],
    "D sees x alone": ["networks.discriminator_input=image", f"scoring={{d=1.5, {STATISTICS}}}"],
    "D sees R(x) alone": ["networks.discriminator_input=reconstruction", f"scoring={{d=1.5, {STATISTICS}}}"],
    "negatives: elastic alone": ['training.discrimination.kinds=["elastic"]'],
    "negatives: patched and tinted alone": ['training.discrimination.kinds=["patched", "tinted"]'],
    "no noise for D": ["training.discrimination.noisy=0.0"],
    "no jitter of normal images": ["training.discrimination.jitter=false"],
    "no noise for R": ["corruption.sigma=0.0"],
    "no noise in the bottleneck": ["networks.latent_noise=0.0"],
    "no bottleneck": ["networks.latent_dim=0", "networks.latent_noise=0.0"],
    "weights fixed": ["calibration.weights=fixed"],
    "an adversarial phase between": [f"training.adversarial={{iterations=200, mse_weight=0.2, adam={ADAM}}}"],
    "R trained adversarially from the start": [
        "training.reconstruction=none",
        f"training.adversarial={{iterations=500, mse_weight=0.2, adam={ADAM}}}",
    ],
}
DIGITS, SETS = ("8",), ("shapes", "tissue")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    for number, (name, settings) in enumerate(VARIANTS.items()):
        configs = {"robust": with_settings(preset("robust"), settings)}
        cells = [
            *make_cells("one-vs-rest", "mnist", configs, 1, DIGITS),
            *make_cells("suite", "suite", configs, 1, SETS, list(SUITE)),
        ]
        folder = arguments.results / "ablation" / f"{number:02d}"
        results = run_cells(cells, folder, arguments.processes, load=load_task)
        print(name, [f"{result.figures['auroc']:.4f}" for result in results], flush=True)


if __name__ == "__main__":
    main()
