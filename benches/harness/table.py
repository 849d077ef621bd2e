"""Results as a Markdown table."""

import statistics
from collections.abc import Iterable

from harness.compare import OURS, Results
from harness.work import WORKS, Work


def markdown(results: Results) -> str:
    """One row per model and work; a peer's cell says how many times better Ferrule is."""
    engines = list(dict.fromkeys([OURS, *(engine for *_, engine in [*results.values, *results.failures])]))
    rows = dict.fromkeys((model, work) for model, work, _ in [*results.values, *results.failures])
    lines = [_line(["model", "work", "unit", *engines]), _line(["---", "---", "---", *("---:" for _ in engines)])]
    for model, work in rows:
        cells = [_cell(results, (model, work, engine)) for engine in engines]
        lines.append(_line([model, WORKS[work].title, WORKS[work].unit, *cells]))
    return "\n".join(lines) + "\n"


def heading(results: Results) -> str:
    """The machine, its memory during the run, and what was compared."""
    machine = results.machine
    speeds = sorted(rate / 1e9 for rate in results.bandwidth)
    memory = f"{speeds[0]:.1f} to {speeds[-1]:.1f} GB/s" if speeds else "not measured"
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return f"{machine['cpu']}, {machine['isa']}, memory read at {memory} during the run; {versions}\n"


def _cell(results: Results, key: tuple[str, str, str]) -> str:
    values = results.values.get(key)
    if not values:
        return "failed" if key in results.failures else ""
    model, work, engine = key
    median = statistics.median(values)
    ours = results.values.get((model, work, OURS))
    text = digits(median)
    if engine == OURS or not ours:
        return text
    return f"{text} ({ratio(WORKS[work], ours, values):.2f}x)"


def ratio(work: Work, ours: list[float], theirs: list[float]) -> float:
    """Of the medians."""
    return work.ratio(statistics.median(ours), statistics.median(theirs))


def digits(value: float) -> str:
    """Three digits that count, all digits before the point."""
    decimals = max(0, 2 - len(str(int(value))) + 1)
    return f"{value:,.{min(decimals, 2)}f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
