"""Measurements that are not training records (proxy Rtil_t, transport cost c(t), theorems, sample paths), as small tidy CSV files.

    results/measured/<scale>/<study>.csv                          written by `write`
    results/measured/<scale>/variants/<study><suffix>.csv         of other runs or noise levels than the study has by default
    results/measured/<scale>/runs/<run>.csv                       of one run
    results/measured/<scale>/features/                            of other feature networks, see harness.store.feature_measurements
    results/published/<scale>/measured/<study>.csv                published with the records

A report reads the first kind, and of the second only the file of the selection that it is about.

One row per number, with the columns of MeasurementRow. The quantities, and x where they have one:

    rtil                x = t   Rtil_t, equation (17)
    rtil-bias           x = t   upward bias of rtil when measured with this denoiser
    cost                x = t   c(t), equation (19); an empty x is drawn as a flat line
    cost-change         x = t   c(t) minus c at the previous t, from the same draws
    cost-data           x = t   c(t) with each endpoint moved to the nearest data point
    data-distance       x = t   E|move|^2 of these moves
    pair-cost                   E|x' - z'|^2 of the pairs that a run trains on
    discrepancy                 R(theta), equation (8)
    ema-loss            x = sigma_rel   training loss on held-out rows of an average of that length, reconstructed from checkpoints
    ema-mismatch        x = sigma_rel   distance of the reconstructed averaging profile from the wanted one, over the norm of the latter
    theorem1            x = N   N^alpha (L_CT - L_CD) / (C T^(alpha-1) R); the theorem says 1
    theorem2                    slope of ln Rtil against ln t
    theorem2-rtil       x = t   the Rtil_t of IC and ideal GC from which the slope is computed
    lemma1              x = t   c'(t) by finite differences; the true value is the lemma's
    lemma1-trained      x = t   the same divided by the lemma's right-hand side, for a trained f
    corollary1          x = t   change of c near 0
    corollary2          x = t   distance of f from a scaling; c' where f is a scaling
    gradient            x = N   equation (12): squared distances of gradients, in units of CT's distance from its limit at the smallest N
    exact-rtil, exact-cost, exact-slope, exact-ot   x = t   Rtil, c, c' and exact OT where the true value is known
    oracle-error, oracle-rate, flow-change          x = t   accuracy of the exact denoiser and of the ideal flow
    mu-...              x = mu; case is N=<intervals of the grid>; coupling is closed-form for the values of harness.theory.joint_learning
    mu-bias, mu-spread          generated against the ideal flow: E|f - f_ideal|^2 / d; standard deviation of f over that of f_ideal
    mu-gradient                 variance of the gradient of one row; mu-gradient-ic, -gc, -between: its three parts
    mu-gradient-ratio           that variance over GC rows divided by that over IC rows, at the same weights
    mu-discrepancy              R(theta), equation (8), on IC's pairs
    mu-cost             t       c(t), equation (19), with the run's own endpoints
    linear-spread, linear-gradient      x = mu   the same of linear models trained on Gaussian data, whose true value is known
    path                        a point (x, value) of sample path `path` at time t
    path-distance, path-end     mean distance from the PF-ODE path with the same start, along the path and at its end
    path-crossing               share of pairs of paths that cross
    path-straightness           |end - start| divided by the length of the path
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from harness.config.parts import SCALE_NAMES
from harness.errors import FOREIGN
from harness.locations import read_regular
from harness.stats import measured, uncertainty
from harness.store import published
from harness.store.files import disk_errors, write_atomic
from harness.store.records import RecordSet

TEXT = ("quantity", "data", "coupling", "label", "case", "run", "protocol")
NUMBERS = ("value", "x", "t", "se", "n", "truth", "truth_se", "seed", "path")
COLUMNS = ("scale", *TEXT, *NUMBERS)


VARIANTS = "variants"
"""Folder of the measurements of selections other than the default."""
CLOSED_FORM = "closed-form"
"""The coupling of rows that a closed form gives, not a model."""


def case_of_grid(intervals: int) -> str:
    """The `case` of a measurement that belongs to one grid of noise levels."""
    return f"N={intervals}"


def grid_of_case(case: str) -> int:
    """The number of intervals in a case of `case_of_grid`. Raises ValueError for another text."""
    prefix, sign, number = case.partition("=")
    if (prefix, sign) != ("N", "="):
        raise ValueError(f"not the case of a grid: {case}")
    return int(number)


@dataclass(frozen=True)
class MeasurementRow:
    """One measured number and its columns; "" and None leave a column empty."""

    quantity: str
    """One of the quantities above."""
    data: str
    """Data set."""
    value: float
    """The number."""
    coupling: str = ""
    """ic, ot, ot-2048, gc-0.5, gc-ideal, pf-ode, ...; determines colour and marker."""
    label: str = ""
    """Name in the legend."""
    case: str = ""
    """What else distinguishes lines: alpha = 1, trained on IC, ..."""
    x: float | None = None
    """Position on the horizontal axis, see the quantities."""
    t: float | None = None
    """Noise level, for sample paths."""
    se: float | None = None
    """Standard error of the value (Monte Carlo)."""
    n: int | None = None
    """Number of random draws."""
    truth: float | None = None
    """True value, where it is known."""
    truth_se: float | None = None
    """Standard error of the true value."""
    protocol: str = ""
    """Hash of how the value was measured; rows with different protocols are never drawn as one line."""
    run: str = ""
    """Run id of the trained model."""
    seed: int | None = None
    """Training seed of that model."""
    path: int | None = None
    """Number of a sample path."""
    stated_negative: bool = False
    """Whether the paper states that the number is below 0, by which it is then judged; not stored."""

    @property
    def errors_away(self) -> float | None:
        """(value - truth) in combined standard errors, as `uncertainty.errors_away` counts them for the row's draws.

        A `stated_negative` number is compared with 0; None where no truth is known.
        """
        truth = 0.0 if self.stated_negative else self.truth
        if truth is None or math.isnan(truth):
            return None
        return uncertainty.errors_away(self.value, truth, self.se, self.truth_se, measured.freedom(self))


def write(root: Path, scale: str, name: str, rows: Iterable[MeasurementRow]) -> Path:
    """Writes results/measured/<scale>/<name>.csv atomically, without columns that are empty in all rows, and returns its path."""
    columns = [{key: value for key, value in asdict(row).items() if key in COLUMNS and value not in (None, "")} for row in rows]
    path = root / "measured" / scale / f"{name}.csv"
    with disk_errors(path.parent, "create a folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, pd.DataFrame(columns).to_csv(index=False).encode(), durable=False)
    return path


def variant(study: str, suffix: str) -> str:
    """The name under which `write` keeps the measurements of a study; suffix: what is not at its default, "" if everything is."""
    return f"{VARIANTS}/{study}{suffix}" if suffix else study


def variants(root: Path, scale: str | None = None) -> list[Path]:
    """The files of measurements of selections other than the default, at one scale or at all."""
    return sorted(root.glob(f"measured/{scale or '*'}/{VARIANTS}/*.csv"))


def read(root: Path, damage: list[str], records: RecordSet = "both", study: str = "", suffix: str = "") -> pd.DataFrame:
    """The measurements of a set of records, with the columns COLUMNS. Of both sets, a file in measured/ replaces the published one of the
    same name.

    With a suffix, as for `variant`, the rows of that study are those of the variant alone; only own records can have them.
    Damaged files and rows are left out and reported in `damage`.
    """
    files: dict[tuple[str, str], Path] = {}
    if records != "own":
        misfits = {path: fault for scale in SCALE_NAMES for path, fault in published.misfits(root / "published" / scale).items()}
        damage += [f"{path}: {fault}; left out" for path, fault in misfits.items() if path.parent.name == "measured"]
        paths = [path for path in root.glob("published/*/measured/*.csv") if path not in misfits]
        files |= {(path.parent.parent.name, path.stem): path for path in paths}
    if records != "published":
        files |= {(path.parent.name, path.stem): path for path in root.glob("measured/*/*.csv")}
    stray = {path for (scale, _), path in files.items() if scale not in SCALE_NAMES}
    damage += [f"{path} is in no folder of a scale; left out" for path in sorted(stray)]
    files = {key: path for key, path in files.items() if path not in stray}
    if suffix:
        files = {(scale, name): path for (scale, name), path in files.items() if name != study}
        if records != "published":
            variants = {scale: root / "measured" / scale / f"{variant(study, suffix)}.csv" for scale in SCALE_NAMES}
            files |= {(scale, study): path for scale, path in variants.items() if path.is_file()}
    parts = []
    for (scale, _), path in sorted(files.items()):
        try:
            part = read_file(path, scale)
        except FOREIGN as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            damage.append(f"damaged measurements {path} ({reason}); left out")
            continue
        if bad := part.value.isna().sum():
            damage.append(f"{bad} rows without a value in {path}; left out")
        parts.append(part.loc[part.value.notna()])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def read_file(path: Path, scale: str) -> pd.DataFrame:
    """One file, with the columns COLUMNS. Raises OSError or ValueError if it is damaged."""
    part = pd.read_csv(io.BytesIO(read_regular(path)), dtype=dict.fromkeys(TEXT, "str"))
    missing = [column for column in ("quantity", "data", "value") if column not in part.columns]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    for name in NUMBERS:
        part[name] = pd.to_numeric(part[name]) if name in part.columns else float("nan")
    part["scale"] = scale
    for name in TEXT:
        part[name] = part[name].fillna("") if name in part.columns else ""
    return part[list(COLUMNS)]
