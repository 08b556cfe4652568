"""The parts of the benchmark, in the order in which they are measured and printed. To add one, add a line to PARTS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.bench import breakdown, commands, frechet, growth, memory, oracle, processes, rates, samples, steps, transport
from harness.bench.rows import Row
from harness.bench.setting import Setting
from harness.errors import HarnessError, unknown


@dataclass(frozen=True)
class Part:
    """A part by name. measure: from a setting to rows, and notes on what could not be measured."""

    name: str
    title: str
    measure: Callable[[Setting], Iterator[Row | str]]


PARTS = {
    part.name: part
    for part in (
        Part(steps.PART, "Training steps, beside a plain baseline", steps.measure),
        Part(breakdown.PART, "Where the time of a step goes", breakdown.measure),
        Part(rates.PART, "Operations per second, beside matrix products and convolutions", rates.measure),
        Part(samples.PART, "Samples and features", samples.measure),
        Part(frechet.PART, "The Frechet distance", frechet.measure),
        Part(oracle.PART, "The exact denoiser and derivatives", oracle.measure),
        Part(transport.PART, "Optimal transport", transport.measure),
        Part(commands.PART, "Commands over many runs", commands.measure),
        Part(processes.PART, "Several processes", processes.measure),
        Part(growth.PART, "Growth with batch, width and resolution", growth.measure),
        Part(memory.PART, "Peak memory of a process", memory.measure),
    )
}


def chosen_parts(text: str | None) -> list[Part]:
    """The parts that an option names, separated by commas, in their usual order; all for None. Raises HarnessError for an unknown name."""
    if text is None:
        return list(PARTS.values())
    names = {word.strip() for word in text.split(",") if word.strip()}
    for name in sorted(names):
        if name not in PARTS:
            raise unknown("part of the benchmark", name, PARTS, where="--only")
    if not names:
        raise HarnessError("no part", where="--only", found=text, expected=f"some of {','.join(PARTS)}")
    return [part for part in PARTS.values() if part.name in names]
