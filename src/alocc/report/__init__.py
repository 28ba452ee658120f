"""One self-contained HTML file about a training and what its detector makes of images."""

from alocc.report.build import build_report

__all__ = ["build_report"]
