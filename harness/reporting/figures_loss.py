"""Figure of the training loss: the mean between evaluations, of models whose losses are defined in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from harness.reporting.cells import Cell
from harness.reporting.figures import curves
from harness.reporting.findings_longer import stage_ends
from harness.reporting.style import Figure, pretty
from harness.reporting.values import CellValues

MEANS = "each point is the mean over the steps since the one before"
ON_A_GRID = "the loss may jump where N doubles, and is comparable at the same N and law of noise levels alone"
IN_STAGES = "the loss may jump where a stage begins, and is comparable in the same stage and at the same law of noise levels alone"


def training_loss(cells: Sequence[Cell], cell_values: CellValues, name: str, title: str) -> Figure | None:
    """The training loss per row against the step, with a vertical line where N doubles. None without values.

    Drawn are the cells whose records have the protocol that most of them share; the caption names the others, whose loss is another
    quantity.
    """
    protocol = cell_values.curve_protocol(cells, "loss")
    shown = [cell for cell in cells if not cell_values.curves(cell, "loss", protocol).empty] if protocol else []
    if not shown:
        return None
    others = [cell for cell in cells if cell not in shown and not cell_values.curves(cell, "loss").empty]
    run, last = shown[0].run, max(int(cell_values.curves(cell, "loss").index[-1]) for cell in shown)
    on_a_grid = run.objective.kind == "ict"
    doublings = [step for step, _ in stage_ends(run)[:-1] if step <= last] if on_a_grid else []
    note = f"{MEANS}; {ON_A_GRID if on_a_grid else IN_STAGES}"
    if others:
        note += f"; left out, since they minimise another loss: {', '.join(pretty(cell.label) for cell in others)}"
    return curves(shown, cell_values, "loss", name, title, doublings=doublings, note=note)
