"""For tests of Ferrule itself: the real scheduler and cache, driven step by step."""

from ferrule._core import SchedulerHarness

__all__ = ["SchedulerHarness"]
