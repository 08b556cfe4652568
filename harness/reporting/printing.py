"""Prints tables, verdicts and warnings of the report to the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.text import Text

from harness.console import Console
from harness.errors import HarnessError
from harness.locations import may_write
from harness.reporting import tables
from harness.reporting.cells import ExperimentCells
from harness.reporting.load import LoadedResults
from harness.reporting.tables import Table
from harness.reporting.verdicts import Verdict

STYLES = {"supported": "bold green", "contradicted": "bold red", "equivalent": "bold cyan", "inconclusive": "yellow", "not run": "dim"}


WIDEST = 10_000
"""Columns of a pipe or file: no row of a table is folded there, and no row is padded to that width."""


def console() -> Console:
    """A console that folds lines in a terminal only."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=WIDEST)


FALLBACK = "report-output"
"""Below the current folder: where a report is written if neither another folder is named nor the results folder can be written."""


def output_folder(root: Path, chosen: Path | None, out: Console) -> Path:
    """Where tables, figures, pages and measurements of a results folder are written: `chosen`, else `root`, else FALLBACK, with a note.

    Raises HarnessError if that folder cannot be written: results of others are often for reading only.
    """
    candidates = [chosen] if chosen else [root, Path.cwd() / FALLBACK]
    folder = next((folder for folder in candidates if _is_writable(folder)), None)
    if folder is None:
        folders = " and ".join(map(str, candidates))
        raise HarnessError(
            "no permission to write the report", where="--output", found=folders, nearest="--output DIR, a folder of your own"
        )
    if folder not in (chosen, root):
        lines(out, [f"{root} cannot be written, so all files go to {folder}; --output DIR names another folder."])
    return folder


def _is_writable(folder: Path) -> bool:
    """Whether files can be created in a folder, and in those of earlier reports in it; where it is new, in the one that it will be in."""
    return may_write(folder) and all(may_write(folder / name) for name in ("tables", "figures", "measured"))


def lines(out: Console, texts: Iterable[str | Text], style: str = "") -> None:
    """Prints each text as one line, which only the terminal wraps, so that paths can be copied."""
    for text in texts:
        out.print(Text(text, style) if isinstance(text, str) else text, soft_wrap=True)


def print_records(out: Console, loaded: LoadedResults, scale: str | None) -> None:
    """First line of a report: which set of records it shows, and which other one there is at this scale (None: at any)."""
    counts = {source: {name: n for name, n in runs.items() if scale in (None, name)} for source, runs in loaded.counts.items()}
    texts = {source: ", ".join(f"{name}: {n} run{'s' * (n > 1)}" for name, n in runs.items()) for source, runs in counts.items()}
    own, published = texts.get("own", ""), texts.get("published", "")
    where = f"at the {scale} scale below {loaded.root}" if scale else f"below {loaded.root}"
    if loaded.records == "both":
        text = f"{loaded.label[0].upper()}{loaded.label[1:]}. A run has other numbers on another processor or with other versions"
    elif loaded.records == "published":
        text = f"{loaded.label[0].upper()}{loaded.label[1:]} ({published or 'none'}); "
        text += f"there are own runs as well ({own}): --records own" if own else f"no own runs yet {where}"
    else:
        text = f"Own runs ({own})" if own else f"No own runs yet {where}"
        if published:
            text += f". The published records ({published}) are not part of it: --records published shows them, --records both pools both, "
            text += "harness report --compare own published shows both side by side"
    lines(out, [f"{loaded.label}." if loaded.rehearsal else f"{text}."], "bold")
    if loaded.code:
        lines(out, [f"{loaded.code}."])


def print_experiment(
    experiment: ExperimentCells, table: Table, verdicts: Sequence[Verdict], paths: Sequence[Path], loaded: LoadedResults
) -> None:
    """The table, the verdicts with their evidence, and the paths of sample grids and written files."""
    out = console()
    out.print(tables.terminal(table))
    out.print()
    for verdict in verdicts:
        head = (f"{verdict.id} ", "bold"), f"{verdict.text}, at the {verdict.scale} scale: "
        lines(out, [Text.assemble(*head, (_emphasised(verdict), STYLES[verdict.outcome]))])
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


def _emphasised(verdict: Verdict) -> str:
    """The verdict with its outcome in capitals."""
    return verdict.summary.replace(verdict.outcome, verdict.outcome.upper(), 1)


def print_claims(out: Console, verdicts: Sequence[Verdict], summary: Table) -> None:
    """The claims with their outcome at each scale, and the evidence for those that were run."""
    lines(out, [summary.title], "bold")
    claims: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        claims.setdefault(verdict.id, []).append(verdict)
    for name, judged in claims.items():
        outcomes = [(f"{verdict.scale}: {verdict.summary}  ", STYLES[verdict.outcome]) for verdict in judged]
        lines(out, [Text.assemble((f"{name:<4}", "bold"), judged[0].text, "\n    ", *outcomes)])
        for verdict in judged:
            if verdict.judged:
                lines(out, [f"       {line}" for line in verdict.evidence(4)], "dim")
    lines(out, [f"  {note}" for note in summary.notes], "dim")


def print_damage(out: Console, damage: Iterable[str]) -> None:
    """Warnings, each once."""
    lines(out, [f"Warning: {text}" for text in dict.fromkeys(damage)], "yellow")
