"""One self-contained HTML page: claims, tables, figures with hover, protocol ledger, every run. Opens from disk, asks no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from harness.reporting import paper_values
from harness.reporting.assets import CSS, SCRIPT
from harness.reporting.drawing import Drawn
from harness.reporting.load import Book
from harness.reporting.page_runs import runs_section
from harness.reporting.tables import Table, pretty, split
from harness.reporting.values import Numbers
from harness.reporting.verdicts import Verdict
from harness.store.files import write_atomic

MOST_BYTES = 5_000_000


@dataclass(frozen=True)
class Content:
    """All that the page shows. tables: by scale, in order."""

    book: Book
    numbers: Numbers
    verdicts: Sequence[Verdict]
    tables: Mapping[str, Sequence[Table]]
    figures: Sequence[Drawn]
    ledger: Sequence[Table]


def write_page(content: Content, path: Path) -> Path:
    """Writes the page, whole or not at all. Sample grids of runs are left out, the last ones first, before it passes MOST_BYTES."""
    body = [_summary(content), _claims(content.verdicts), _tables(content.tables), _figures(content.figures), _ledger(content.ledger)]
    budget = MOST_BYTES - sum(map(len, body)) - len(CSS) - len(SCRIPT) - 20_000
    body.append(runs_section(content.book, content.numbers, budget))
    body.append(_damage(content.book))
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Report: generator-augmented flows</title><link rel='icon' href='data:,'><style>{CSS}</style></head><body>"
        + "\n".join(body)
        + f"<script>{SCRIPT}</script></body></html>\n"
    )
    write_atomic(path, text.encode(), durable=False)
    return path


def _summary(content: Content) -> str:
    book, source = content.book, paper_values.paper()["source"]
    counts = {scale: [entry for entry in book.entries.values() if entry.run.scale == scale] for scale in book.scales}
    lines = []
    for scale, entries in counts.items():
        done = sum(entry.done for entry in entries)
        data = ", ".join(sorted({paper_values.data_name(entry.run.data.name) for entry in entries}))
        published = sum(entry.source == "published" for entry in entries)
        told = f"{done} of {len(entries)} runs done" + (f", {published} from published records" if published else "")
        lines.append(f"<li><b>{escape(scale)}</b>: {escape(data)}; {told}</li>")
    outcomes = [str(verdict.outcome) for verdict in content.verdicts]
    told = ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes)) or "none judged"
    return (
        f"<h1>Report on &ldquo;{escape(source['title'])}&rdquo;</h1>"
        f"<p class='soft'>{escape(source['venue'])}, arXiv {escape(source['arxiv'])}. "
        "Everything here is computed from the records at hand; nothing was trained for it.</p>"
        "<nav><a href='#claims'>Claims</a><a href='#tables'>Tables</a><a href='#figures'>Figures</a>"
        "<a href='#ledger'>Protocol</a><a href='#runs'>Runs</a></nav>"
        f"<ul>{''.join(lines) or '<li>No runs yet.</li>'}<li>Claims, each at each scale: {escape(told)}</li></ul>"
    )


def _claims(verdicts: Sequence[Verdict]) -> str:
    scales = list(dict.fromkeys(verdict.scale for verdict in verdicts))
    by_claim: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_claim.setdefault(verdict.id, []).append(verdict)
    rows = []
    for name, found in by_claim.items():
        outcomes = {verdict.scale: verdict for verdict in found}
        cells = "".join(f"<td>{_outcome(outcomes.get(scale))}</td>" for scale in scales)
        run = [verdict for verdict in found if verdict.outcome != "not run"]
        evidence = "".join(f"<li>{escape(verdict.scale)}: {_text(line)}</li>" for verdict in run for line in verdict.evidence())
        told = f"<details><summary class='soft'>evidence</summary><ul class='notes'>{evidence}</ul></details>" if evidence else ""
        claim = f"<b>{name}</b> {_text(found[0].text)} <span class='soft'>({escape(found[0].figure)})</span>"
        rows.append(f"<tr><td>{claim}{told}</td>{cells}</tr>")
    head = "".join(f"<th>{escape(scale)}</th>" for scale in scales)
    return (
        "<h2 id='claims'>The paper's claims</h2><p class='soft'>Judged at each scale by paired tests over training seeds (two-sided, "
        "alpha 0.05), on the final FID, or W2 for points; measured quantities by their errors. Supported: every test a claim asks for is "
        "significant. Contradicted: one is significant the other way (Holm's correction). Otherwise not separable.</p>"
        f"<div class='scroll'><table class='words claims'><thead><tr><th>claim</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _outcome(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    name = str(verdict.outcome)
    return f"<span class='outcome {name.replace(' ', '-')}'>{name}</span>"


def _text(text: str) -> str:
    return escape(pretty(text))


def _tables(tables: Mapping[str, Sequence[Table]]) -> str:
    parts = ["<h2 id='tables'>Tables</h2>"]
    shown: set[str] = set()
    for found in tables.values():
        for table in found:
            parts.append(_table(table))
            for other in table.more:
                if other.name not in shown:
                    parts.append(_table(other))
                if other.name.startswith("paper-"):  # one and the same beside every scale's
                    shown.add(other.name)
    return "".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(header)}</th>" for header in table.headers)
    body = []
    for number, row in enumerate(table.rows):
        if len(row) == 1:
            body.append(f"<tr><td class='head' colspan='{len(table.headers)}'>{_text(split(row[0])[0])}</td></tr>")
            continue
        cells = []
        for cell in row:
            main, sub = split(cell)
            small = f"<small>{_text(sub)}</small>" if sub else ""
            cells.append(f"<td>{_text(main)}{small}</td>")
        body.append(f"<tr{' class=rule' if number in table.rules else ''}>{''.join(cells)}</tr>")
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        f"<h3 id='table-{escape(table.name)}'>{_text(table.title)}</h3><div class='scroll'>"
        f"<table{' class=words' if table.words else ''}><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>" + (f"<ul class='notes'>{notes}</ul>" if notes else "")
    )


def _figures(figures: Sequence[Drawn]) -> str:
    parts = ["<h2 id='figures'>Figures</h2>"]
    for scale in dict.fromkeys(figure.scale for figure in figures):
        parts.append(f"<h3>{escape(scale)} scale</h3><div class='figures'>")
        parts += [_figure(figure) for figure in figures if figure.scale == scale]
        parts.append("</div>")
    return "".join(parts)


def _figure(figure: Drawn) -> str:
    picture = base64.b64encode(figure.svg.encode()).decode()
    points = figure.points
    data = f" data-points='{escape(json.dumps(points, separators=(',', ':'), ensure_ascii=False), quote=True)}'" if points else ""
    wide = " class='wide'" if figure.wide else ""
    hint = " Hover for run, step and value." if points else ""
    return (
        f"<figure{wide} id='{escape(figure.name)}'><div class='plot'{data}><img alt='{escape(figure.title, quote=True)}' "
        f"src='data:image/svg+xml;base64,{picture}'></div><figcaption><b>{_text(figure.title)}.</b> {_text(figure.caption)}.{hint} "
        f"Files: <a href='figures/{escape(figure.name)}.csv'>CSV</a>, <a href='figures/{escape(figure.name)}.pdf'>PDF</a>"
        "</figcaption></figure>"
    )


def _ledger(tables: Sequence[Table]) -> str:
    return "<h2 id='ledger'>Protocol</h2>" + "".join(map(_table, tables))


def _damage(book: Book) -> str:
    if not book.damage:
        return ""
    return f"<h2 id='damage'>Left out</h2><ul>{''.join(f'<li>{escape(text)}</li>' for text in book.damage)}</ul>"
