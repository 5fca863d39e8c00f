"""What all figures share: a paper's style, colours that stay apart, and the same bytes for the same numbers.

Only matplotlib's object interface is used, so that nothing here touches the state of a caller who plots too. A figure
is a function under `@rc_context(STYLE)` that fills a `page` and returns what `save` wrote.
"""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GREY = "#222222", "#8A8A8A"
BLUE, VERMILLION, ORANGE = "#0072B2", "#D55E00", "#E6B95C"
"""Okabe and Ito's blue, vermillion and a soft orange: apart for every kind of colour vision, and in grey."""
HIDDEN = "#EDEDED"
"""What was not there to be seen."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # letters stay letters in a PDF
}


def page(width: float, height: float, title: str) -> Figure:
    """An empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure as PNG and as PDF, whatever suffix `path` has; returns the two files."""
    png, pdf = path.with_suffix(".png"), path.with_suffix(".pdf")
    figure.savefig(png, dpi=150)
    figure.savefig(pdf, metadata={"CreationDate": None})
    return [png, pdf]
