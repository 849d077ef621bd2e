"""Memory of this process, as Linux reports it."""

import resource
from collections.abc import Callable
from pathlib import Path


def resident_growth_mib() -> Callable[[], float]:
    """Tells, when called, the peak of resident memory over what is resident now."""
    before = _resident_kib()
    return lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
