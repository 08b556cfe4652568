"""Prints tables, verdicts and warnings of the report to the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.reporting import tables
from harness.reporting.cells import ExperimentCells
from harness.reporting.load import LoadedResults
from harness.reporting.tables import Table
from harness.reporting.verdicts import Outcome, Verdict

STYLES = {"supported": "bold green", "contradicted": "bold red", "equivalent": "bold cyan", "inconclusive": "yellow", "not run": "dim"}


def console() -> Console:
    """A console that is at least 120 columns wide in a pipe or a file, so that rows are not folded there."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=max(terminal.width, 120))


def lines(out: Console, texts: Iterable[str | Text], style: str = "") -> None:
    """Prints each text as one line, which only the terminal wraps, so that paths can be copied."""
    for text in texts:
        out.print(Text(text, style) if isinstance(text, str) else text, soft_wrap=True)


def print_experiment(
    experiment: ExperimentCells, table: Table, verdicts: Sequence[Verdict], paths: Sequence[Path], loaded: LoadedResults
) -> None:
    """The table, the verdicts with their evidence, and the paths of sample grids and written files."""
    out = console()
    out.print(tables.terminal(table))
    out.print()
    for verdict in verdicts:
        head = (f"{verdict.id} ", "bold"), f"{verdict.text}, at the {verdict.scale} scale: "
        lines(out, [Text.assemble(*head, (verdict.outcome.upper(), STYLES[verdict.outcome]))])
        lines(out, [f"   {line}" for line in verdict.evidence()], "dim")
    samples = []
    for cell in experiment.cells:
        grids = [entry.samples[-1] for entry in loaded.find(cell.runs.values()) if entry.samples]
        samples += [f"   {cell.label}: {grid}" for grid in grids[:1]]
    if samples:
        lines(out, ["Sample grids of the first seed (those of other seeds are in their run folders):"], "bold")
        lines(out, samples)
    lines(out, [f"Written: {', '.join(map(str, paths))}"], "dim")
    print_damage(out, loaded.damage)


def print_claims(out: Console, verdicts: Sequence[Verdict], summary: Table) -> None:
    """The claims with their outcome at each scale, and the evidence for those that were run."""
    lines(out, [summary.title], "bold")
    claims: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        claims.setdefault(verdict.id, []).append(verdict)
    for name, judged in claims.items():
        outcomes = [(f"{verdict.scale}: {verdict.outcome}  ", STYLES[verdict.outcome]) for verdict in judged]
        lines(out, [Text.assemble((f"{name:<4}", "bold"), judged[0].text, "\n    ", *outcomes)])
        for verdict in judged:
            if verdict.outcome is not Outcome.NOT_RUN:
                lines(out, [f"       {line}" for line in verdict.evidence(4)], "dim")
    lines(out, [f"  {note}" for note in summary.notes], "dim")


def print_damage(out: Console, damage: Iterable[str]) -> None:
    """Warnings, each once."""
    lines(out, [f"Warning: {text}" for text in dict.fromkeys(damage)], "yellow")
