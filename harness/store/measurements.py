"""Measurements that are no training records (proxy Rtil_t, transport cost c(t), theorems, sample paths), as small tidy CSV files.

    results/measured/<scale>/<name>.csv               what measuring code writes, by `write`
    results/published/<scale>/measured/<name>.csv     published with the records

One row a number. Columns, of which only the first three are required:

    quantity   rtil       Rtil_t, equation (17)                               x = t
               rtil-bias  by how much rtil is too large, taken with this denoiser        x = t
               cost       c(t), equation (19); x empty: a flat line           x = t
               cost-change  c(t) less c at the t before, from the same draws             x = t
               cost-data  c(t) with each endpoint moved to the nearest data point; data-distance: E|move|^2       x = t
               pair-cost  E|x' - z'|^2 of the pairs that a run trains on
               discrepancy  R(theta), equation (8)
               theorem1   N^alpha (L_CT - L_CD) / (C T^(alpha-1) R), truth 1  x = N
               theorem2   slope of ln Rtil against ln t; theorem2-rtil: the Rtil_t of IC and ideal GC behind it          x = t
               lemma1     c'(t) by finite differences; truth: by the lemma    x = t
               lemma1-trained  the same over the lemma's right-hand side, for a trained f            x = t
               corollary1, corollary2  change of c near 0; distance from a scaling, c' where f is one             x = t
               gradient   equation (12): squared distances of gradients, in units of CT's from its limit at the least N    x = N
               exact-rtil, exact-cost, exact-slope, exact-ot  Rtil, c, c', exact OT where the truth is known      x = t
               oracle-error, oracle-rate, flow-change  of the exact denoiser and the ideal flow       x = t
               path       a point (x, value) of sample path `path` at time t
               path-distance, path-end  mean distance from the PF-ODE path of the same start, on the way and at the end
               path-crossing, path-straightness  share of pairs of paths that pass each other; |end - start| over length
    data       data set            value   the number
    coupling   ic, ot, ot-2048, gc-0.5, gc-ideal, pf-ode, ...                 key of colour and marker
    label      name in the legend  case    what else tells lines apart (alpha = 1, trained on IC, ...)
    seed, run  training seed and run id, where a trained model was measured
    x, t       see above           path    number of a sample path
    se         standard error of value (Monte Carlo)   n  draws   truth   exact value, where it is known   truth_se  its error
    protocol   hash of how it was measured; rows of different protocols never share a line
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from harness.errors import HarnessError
from harness.store import uncertainty
from harness.store.files import write_atomic

TEXT = ("quantity", "data", "coupling", "label", "case", "run", "protocol")
NUMBERS = ("value", "x", "t", "se", "n", "truth", "truth_se", "seed", "path")
COLUMNS = ("scale", *TEXT, *NUMBERS)
REQUIRED = ("quantity", "data", "value")


@dataclass(frozen=True)
class MeasurementRow:
    """One measured number with the columns above; "" and None leave a column empty."""

    quantity: str
    data: str
    value: float
    coupling: str = ""
    label: str = ""
    case: str = ""
    x: float | None = None
    t: float | None = None
    se: float | None = None
    n: int | None = None
    truth: float | None = None
    truth_se: float | None = None
    protocol: str = ""
    run: str = ""
    seed: int | None = None
    path: int | None = None
    stated_negative: bool = False
    """Whether the paper states that the number is below 0. It is judged by that, and no column keeps it."""

    @property
    def errors_away(self) -> float | None:
        """(value - truth) in combined standard errors, a `stated_negative` number against 0; None where no truth is known."""
        truth = 0.0 if self.stated_negative else self.truth
        return None if truth is None or math.isnan(truth) else uncertainty.errors_away(self.value, truth, self.se, self.truth_se)

    def columns(self) -> dict[str, object]:
        """The columns that are not empty, as `write` takes them."""
        columns = asdict(self)
        del columns["stated_negative"]
        return {name: value for name, value in columns.items() if value is not None and value != ""}


def write(root: Path, scale: str, name: str, rows: Iterable[Mapping[str, object]]) -> Path:
    """results/measured/<scale>/<name>.csv, whole or not at all. Raises HarnessError for an unknown column or a missing required one."""
    frame = pd.DataFrame(list(rows))
    unknown = sorted(set(frame.columns) - set(COLUMNS) - {"scale"})
    lacking = [column for column in REQUIRED if column not in frame.columns]
    if unknown or lacking:
        raise HarnessError(
            "measurements with other columns than the report reads",
            where=name,
            found=", ".join(unknown) or f"no {', '.join(lacking)}",
            expected=", ".join(COLUMNS[1:]),
        )
    path = Path(root) / "measured" / scale / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, frame.drop(columns="scale", errors="ignore").to_csv(index=False).encode(), durable=False)
    return path


def read(root: Path, damage: list[str] | None = None) -> pd.DataFrame:
    """All measurements, columns COLUMNS. A file measured here replaces a published one of its name; damage is named and left out."""
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(Path(root).glob("published/*/measured/*.csv")):
        files[path.parent.parent.name, path.stem] = path
    for path in sorted(Path(root).glob("measured/*/*.csv")):
        files[path.parent.name, path.stem] = path
    parts = []
    for (scale, _), path in sorted(files.items()):
        try:
            part = read_file(path, scale)
        except (OSError, ValueError, pd.errors.ParserError) as error:
            if damage is not None:
                damage.append(f"damaged measurements {path} ({str(error).splitlines()[0]}); left out")
            continue
        bad = int(part.value.isna().sum())
        if bad and damage is not None:
            damage.append(f"{bad} rows without a value in {path}; left out")
        parts.append(part.loc[part.value.notna()])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def read_file(path: Path, scale: str) -> pd.DataFrame:
    """One file, columns COLUMNS. Raises OSError or ValueError for a damaged one."""
    part = pd.read_csv(path, dtype={name: "str" for name in TEXT})
    missing = [column for column in REQUIRED if column not in part.columns]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    for name in NUMBERS:
        part[name] = pd.to_numeric(part[name]) if name in part.columns else float("nan")
    part["scale"] = scale
    for name in TEXT:
        part[name] = part[name].fillna("") if name in part.columns else ""
    return part[list(COLUMNS)]
