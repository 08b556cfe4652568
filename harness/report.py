"""`python harness/report.py` is `harness report`: tables, figures and verdicts from records, in seconds, without GPU, training or torch.

python harness/report.py                    every table and figure, and the page results/report.html
harness report table1 --scale digits        one experiment: its table in the terminal and in results/tables/
harness report --compare digits toy         two record sets side by side: scales, or results folders
harness report --tensorboard                the curves as TensorBoard event files, in results/tensorboard/
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("jinja2", "matplotlib", "pandas", "pydantic", "rich", "scipy")
"""What the report needs besides Python."""


def _stand_alone() -> None:
    """Makes `python harness/report.py` work: puts the project root first on the path instead of harness/, and starts again with the
    Python of .venv where a package is missing."""
    root = Path(__file__).resolve().parent.parent
    if sys.path and Path(sys.path[0] or ".").resolve() == root / "harness":
        sys.path[0] = str(root)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        python = root / ".venv" / "bin" / "python"
        if not python.exists() or os.environ.get("HARNESS_REPORT_VENV"):
            raise SystemExit(f"{missing[0]} is missing; set the project up with: make setup")
        os.environ["HARNESS_REPORT_VENV"] = "1"
        os.execv(python, [str(python), str(Path(__file__).resolve()), *sys.argv[1:]])


if __name__ == "__main__":
    _stand_alone()

from harness import cli  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """`harness report` with these arguments, by default those of the command line; returns the exit code."""
    return cli.main(["report", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
