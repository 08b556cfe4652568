"""The page: one self-contained HTML file with claims, tables, figures, protocol and runs. It opens from disk and needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.reporting import paper_values, rehearsed
from harness.reporting.figure_requests import Drawn
from harness.reporting.page_runs import default_first, runs_section
from harness.reporting.rendering import asset, content_policy, render
from harness.reporting.tables import Table, printed
from harness.reporting.values import CellValues
from harness.reporting.verdicts import RULES, Outcome, Verdict
from harness.store.files import write_atomic

MOST_BYTES = 5_000_000


def write_page(
    path: Path,
    cell_values: CellValues,
    verdicts: Sequence[Verdict],
    tables_by_scale: Mapping[str, Sequence[Table]],
    figures: Sequence[Drawn],
    ledger: Sequence[Table],
) -> Path:
    """Writes the page atomically. To stay below MOST_BYTES, it leaves out sample grids of runs first, then details of runs."""
    loaded = cell_values.loaded
    scales = default_first([*tables_by_scale, *loaded.scales])
    main, tables = scales[0] if scales else "", _tables(tables_by_scale)
    claims: dict[str, dict[str, Verdict]] = {}
    for verdict in sorted(verdicts, key=lambda verdict: scales.index(verdict.scale)):
        claims.setdefault(verdict.id, {})[verdict.scale] = verdict
    counts = Counter(verdict.outcome for verdict in verdicts if verdict.scale == main)
    body = render(
        "body.html",
        source=paper_values.paper()["source"],
        scales={scale: loaded.of_scale(scale) for scale in scales},
        main=main,
        headline=next((table for table in tables.get(main, ()) if table.name.startswith("table1-")), None),
        curve=next((figure for figure in figures if figure.name.startswith("convergence-") and figure.scale == main), None),
        claims=claims,
        rules=RULES,
        outcomes={outcome: counts[outcome] for outcome in Outcome if counts[outcome]},
        records=loaded.label,
        rehearsal=loaded.rehearsal,
        smoke=rehearsed.smoke_text(loaded.runs.values()) if loaded.rehearsal else "",
        tables=tables,
        figures={scale: [figure for figure in figures if figure.scale == scale] for scale in scales},
        ledger=ledger,
        damage=list(dict.fromkeys(loaded.damage)),
        code=loaded.code,
    )
    frame = {"css": asset("page.css"), "script": asset("page.js"), "policy": content_policy(), "body": body}
    runs = runs_section(cell_values, MOST_BYTES - len(printed(render("page.html", **frame, runs=""))))
    write_atomic(path, printed(render("page.html", **frame, runs=runs)), durable=False)
    return path


def _tables(tables: Mapping[str, Sequence[Table]]) -> dict[str, list[Table]]:
    """The tables of each scale, each followed by those that belong to it. The paper's own, which every scale has, appear once."""
    shown: set[str] = set()
    ordered: dict[str, list[Table]] = {}
    for scale in default_first(tables):
        ordered[scale] = [part for table in tables[scale] for part in (table, *table.more) if part.name not in shown]
        shown |= {table.name for table in ordered[scale]}
    return ordered
