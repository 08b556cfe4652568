"""Intervals, tests and power: the only place that decides how sure a number is. No torch."""
