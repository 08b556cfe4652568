"""The report: tables, figures and verdicts from the records at hand, in seconds, without GPU, training or torch.

    python harness/report.py                    every table and figure, and the page results/report.html
    harness report table1 --scale digits        one experiment: its table in the terminal and in results/tables/
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def _stand_alone() -> None:
    """For `python harness/report.py`: the project root comes first on the path, not harness/; without pandas the venv's Python runs it."""
    root = Path(__file__).resolve().parent.parent
    if sys.path and Path(sys.path[0] or ".").resolve() == root / "harness":
        sys.path[0] = str(root)
    try:
        import pandas  # noqa: F401
        import pydantic  # noqa: F401
    except ImportError as error:
        python = root / ".venv" / "bin" / "python"
        if not python.exists() or os.environ.get("HARNESS_REPORT_VENV"):
            raise SystemExit(f"{error.name} is missing; set the project up with: make setup") from None
        os.environ["HARNESS_REPORT_VENV"] = "1"
        os.execv(python, [str(python), str(Path(__file__).resolve()), *sys.argv[1:]])


if __name__ == "__main__":
    _stand_alone()

from rich.console import Console  # noqa: E402
from rich.text import Text  # noqa: E402

from harness.errors import HarnessError  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """`harness report ...`; returns an exit code: 2 for bad input."""
    try:
        arguments = _parser().parse_args(sys.argv[1:] if argv is None else list(argv))
        from harness.store import results_root

        root = arguments.results or results_root()
        return _experiment(arguments, root)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _parser():
    from harness.cli import Parser, seeds

    parser = Parser(prog="harness report", description="Redraw tables, figures and verdicts from the records at hand. Nothing is trained.")
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="a file of experiments/, without .py; all of them by default")
    parser.add_argument("--results", type=Path, metavar="DIR", help="the results folder; default $HARNESS_RESULTS or results/")
    parser.add_argument("--scale", help="toy, digits, fashion or paper; default: every scale at hand, or digits for one experiment")
    parser.add_argument("--seeds", type=seeds, metavar="N|A,B,...", help="as for the sweep")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for the sweep")
    parser.add_argument("--coupling", action="append", default=[], metavar="FILE.py:FUNCTION", help="as for the sweep")
    return parser


def console() -> Console:
    """For tables: a pipe or a file gets whole rows."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, 120))


def _experiment(arguments, root: Path) -> int:
    """One experiment at one scale: table, verdicts, where the sample grids lie."""
    from harness import experiments
    from harness.reporting import claims, measured, records, tables
    from harness.reporting.cells import study
    from harness.reporting.summary import experiment_table
    from harness.reporting.values import Numbers
    from harness.reporting.verdicts import Evidence

    scale = arguments.scale or "digits"
    book = records.read(root)
    found = study(arguments.experiment, scale, book, arguments.seeds, arguments.set, arguments.coupling)
    numbers = Numbers(book)
    table = experiment_table(found, numbers, experiments.load(arguments.experiment).title)
    paths = tables.write(table, root / "tables")
    out = console()
    tables.show(out, table)
    out.print()
    evidence = Evidence(found, numbers, measured.read(root).query("scale == @scale"))
    for verdict in claims.judge(evidence, ("C1", "C2")):
        print_verdict(out, verdict)
    _samples(out, found, book)
    out.print(Text(f"Written: {', '.join(map(str, paths))}", "dim"), soft_wrap=True)
    _damage(out, book)
    return 0


STYLES = {"supported": "bold green", "contradicted": "bold red", "not separable": "yellow", "not run": "dim"}


def print_verdict(out: Console, verdict) -> None:
    """The claim with its outcome, then each test on a line."""
    head = (f"{verdict.id} ", "bold"), f"{verdict.text}, at the {verdict.scale} scale: ", (verdict.outcome.upper(), STYLES[verdict.outcome])
    out.print(Text.assemble(*head), soft_wrap=True)
    for line in verdict.evidence():
        out.print(Text(f"   {line}", "dim"), soft_wrap=True)


def _samples(out: Console, found, book) -> None:
    """The youngest sample grid of the first seed of each cell."""
    lines = []
    for cell in found.cells:
        entries = [book.entries[run] for _, run in sorted(cell.runs.items()) if run in book.entries and book.entries[run].samples]
        if entries:
            lines.append(f"   {cell.label}: {entries[0].samples[-1]}")
    if lines:
        out.print(Text("Sample grids (first seed; the others lie beside):", "bold"))
        out.print(Text("\n".join(lines)), soft_wrap=True)


def _damage(out: Console, book) -> None:
    for text in book.damage:
        out.print(Text(f"Warning: {text}", "yellow"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
