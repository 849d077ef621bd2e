"""Results as bars: one panel per kind of work, bars from zero, the value beside each."""

import statistics
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.compare import OURS, Results
from harness.table import digits
from harness.work import WORKS

COLOURS = {OURS: "#d9602b", "llama.cpp": "#5b8db8", "openvino": "#7aa874", "mistral.rs": "#a58bb5"}
INK = "#808080"
"""Readable on white and on black."""
BAR_INCHES = 0.22


def draw(results: Results, path: Path) -> None:
    works = list(dict.fromkeys(work for _, work, _ in results.values))
    mpl.rcParams.update({"font.size": 9, "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK})
    heights = [len(_bars(results, work)) + 2 for work in works]
    figure = Figure(figsize=(8, BAR_INCHES * sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(len(works), 1, squeeze=False, height_ratios=heights)
    for work, axis in zip(works, axes[:, 0], strict=True):
        _panel(axis, results, work)
    figure.savefig(path, transparent=True)


def _bars(results: Results, work: str) -> list[tuple[str, str]]:
    """(model, engine) from top to bottom: models in the order measured, engines within."""
    return sorted(
        ((model, engine) for model, of, engine in results.values if of == work),
        key=lambda bar: [model for model, of, _ in results.values if of == work].index(bar[0]),
    )


def _panel(axis: Axes, results: Results, work: str) -> None:
    bars = _bars(results, work)
    medians = [statistics.median(results.values[model, work, engine]) for model, engine in bars]
    axis.barh(range(len(bars)), medians, height=0.8, color=[COLOURS[engine] for _, engine in bars])
    for place, value in enumerate(medians):
        axis.annotate(digits(value), (value, place), (3, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(bars)), [f"{Path(model).stem}  {engine}" for model, engine in bars])
    axis.invert_yaxis()
    axis.set_xlim(0, max(medians) * 1.12)
    better = "more is better" if WORKS[work].more_is_better else "less is better"
    axis.set_title(f"{WORKS[work].title}, {WORKS[work].unit} ({better})", loc="left", fontsize=9, fontweight="bold")
    axis.tick_params(colors=INK, length=0)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.spines["left"].set_color(INK)
    axis.xaxis.set_visible(False)
