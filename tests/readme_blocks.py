"""Writes the parts of README.md that come from the published records: `make readme`. tests/test_readme.py checks that they are current.

A block stands between <!-- begin NAME --> and <!-- end NAME -->. Own runs in results/runs never enter it.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from harness.config.selection import Selection
from harness.data.catalogue import main_metric
from harness.reporting import claims, drawing, load, tables
from harness.reporting.cells import ExperimentCells, all_cells, experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.figures import training_figures
from harness.reporting.figures_measured import measured_figures
from harness.reporting.findings import FINDINGS, findings
from harness.reporting.load import LoadedResults
from harness.reporting.printing import WIDEST
from harness.reporting.style import Figure
from harness.reporting.values import METRICS, CellValues
from harness.reporting.verdicts import Evidence, Verdict
from harness.store import measurements

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SCALE = "digits"
FIGURES = {"convergence-digits": "convergence.png", "figure2-digits": "figure2.png"}
"""The pictures of the README, by the name of the figure, as files of results/published/digits."""


@dataclass(frozen=True)
class Published:
    """The published records of a project."""

    loaded: LoadedResults
    values: CellValues
    verdicts: dict[str, list[Verdict]]
    """By scale."""

    def cells(self, name: str) -> ExperimentCells:
        """The cells of an experiment at SCALE."""
        return experiment_cells(Selection(name, SCALE, results=self.loaded.root), self.loaded)


def published(root: Path = ROOT) -> Published:
    """The published records below root/results, with the verdicts on them."""
    loaded = load.read(root / "results", "published")
    values, measured = CellValues(loaded), measurements.read(root / "results", loaded.damage, "published")
    scales = [SCALE, *(scale for scale in loaded.scales if scale != SCALE)]
    verdicts = {scale: claims.judge(Evidence(all_cells(scale, loaded), values, measured[measured.scale == scale])) for scale in scales}
    return Published(loaded, values, verdicts)


def blocks(records: Published) -> dict[str, str]:
    """The text of each block of the README."""
    return {"table1": table1(records), "claims": claims_table(records), "answers": answers(records), "settings": settings(records)}


def table1(records: Published) -> str:
    """Table 1 as the terminal prints it, without its notes, and the verdicts on the claims that the paper bases on it."""
    table = replace(experiment_table(records.cells("table1"), records.values), notes=(), more=())
    out = io.StringIO()
    Console(file=out, width=WIDEST, color_system=None).print(tables.terminal(table))
    lines = [*out.getvalue().rstrip().splitlines(), "..."]
    for verdict in records.verdicts[SCALE]:
        if verdict.experiment == "table1":
            summary = verdict.summary.replace(verdict.outcome, verdict.outcome.upper(), 1)
            lines.append(f"{verdict.id} {verdict.text}, at the {SCALE} scale: {summary}")
            lines += [f"   {text}" for text in evidence(verdict)]
    return "\n".join(f"    {line.rstrip()}".rstrip() for line in lines)


def evidence(verdict: Verdict, most: int = 4) -> list[str]:
    """The tests of a verdict in words, without the seeds that would decide it."""
    return replace(verdict, plan=None).evidence(most)


def claims_table(records: Published) -> str:
    """The verdict on each claim at every scale with published records, and the test that decides it at SCALE."""
    scales = list(records.verdicts)
    counts = " and ".join(f"{len(records.loaded.of_scale(scale))} runs at the {scale} scale" for scale in scales)
    rows = []
    for verdicts in zip(*records.verdicts.values(), strict=True):
        here = verdicts[0]
        text = "<br>".join(evidence(here)) if here.judged else "-"
        rows.append([f"{here.id} {here.text} ({here.figure})", *(verdict.summary for verdict in verdicts), text])
    return f"From the published records of {counts}:\n\n" + markdown(["claim of the paper", *scales, f"tests at the {SCALE} scale"], rows)


def answers(records: Published) -> str:
    """What the experiments say about questions of their own, as a list; one that has no published records yet is left out."""
    lines = []
    for name in FINDINGS:
        notes = findings(records.cells(name), records.values)
        lines += [f"- `{name}`: {notes[0]}", *(f"  - {note}" for note in notes[1:])] if notes else []
    return tables.pretty("\n".join(lines))


def settings(records: Published) -> str:
    """Final values of IC and GC under other noise schedules."""
    experiment = records.cells("schedule")
    frame = experiment_table(experiment, records.values).data
    metric = main_metric(experiment.data[0])
    rows = frame[(frame.kind == "model") & (frame.metric == metric) & frame["mean"].notna()]
    title = METRICS[metric].title
    shown = []
    for row in rows.itertuples():
        interval = f" [{row.low:.3f}, {row.high:.3f}]" if row.low < row.high else ""
        compared = "-" if row.against != row.against else f"{row.difference:+.3f}"
        if row.p == row.p:
            compared += f" [{row.difference_low:+.3f}, {row.difference_high:+.3f}], p = {row.p:.2g}"
        shown.append([row.model, f"{row.seeds:.0f}", f"{row.mean:.3f}{interval}", compared])
    return markdown(["model", "seeds", f"{title} [95 % interval]", f"{title} less that of IC with the same settings"], shown)


def markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return tables.pretty("\n".join(f"| {' | '.join(line)} |" for line in lines))


def replaced(text: str, new: dict[str, str]) -> str:
    """The text of a README with these blocks. Raises ValueError for a block that it does not have exactly once."""
    for name, content in new.items():
        pattern = rf"(<!-- begin {name} -->\n).*?(\n<!-- end {name} -->)"
        text, count = re.subn(pattern, lambda match, content=content: f"{match[1]}\n{content}\n{match[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"README.md has the block {name} {count} times")
    return text


def figures(records: Published) -> list[Figure]:
    """The figures of the README."""
    cells = all_cells(SCALE, records.loaded)
    main = [cell for cell in cells.of(SCALE) if cell.key in ("ic", "ot", "gc-0.5")]
    measured = measurements.read(records.loaded.root, records.loaded.damage, "published")
    rows = measured[(measured.scale == SCALE) & (measured.quantity == "rtil")]
    drawn = [*training_figures(replace(cells, cells=tuple(main)), records.values), *measured_figures(rows, SCALE, "published")]
    return [figure for figure in drawn if figure.name in FIGURES]


def write_figures(records: Published, folder: Path) -> None:
    """Writes the pictures of the README into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        for figure in figures(records):
            drawing.save(figure, Path(scratch))
            (folder / FIGURES[figure.name]).write_bytes((Path(scratch) / f"{figure.name}.png").read_bytes())


def main() -> int:
    records = published()
    if records.loaded.damage:
        print("\n".join(records.loaded.damage), file=sys.stderr)
        return 2
    README.write_text(replaced(README.read_text(), blocks(records)))
    write_figures(records, ROOT / "results" / "published" / SCALE)
    print(f"README.md and its {len(FIGURES)} figures are those of the published records")
    return 0


if __name__ == "__main__":
    sys.exit(main())
