"""Style of all figures: that of a paper, distinguishable colours, and the same bytes for the same numbers.

Only matplotlib's object interface is used, so that a caller's own plots are not affected. A figure is a function under
`@rc_context(STYLE)` that fills a `page` and returns the files of `save`.
"""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GREY = "#222222", "#8A8A8A"
BLUE, VERMILLION, ORANGE = "#0072B2", "#D55E00", "#E6B95C"
"""Okabe and Ito's blue, vermillion and a soft orange: distinguishable with any colour vision, and in grey."""
HIDDEN = "#EDEDED"
"""Colour of frames that were not observed or do not exist."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the picture is the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # text stays text in a PDF
    "text.parse_math": False,  # names of channels and series are the user's, and may have dollar signs
}


def page(width: float, height: float, title: str) -> Figure:
    """Return an empty figure; sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure as PNG and as PDF, for any suffix of `path`, and return the two files."""
    png, pdf = path.with_suffix(".png"), path.with_suffix(".pdf")
    figure.savefig(png, dpi=150)
    figure.savefig(pdf, metadata={"CreationDate": None})
    return [png, pdf]
