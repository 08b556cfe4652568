"""`python harness/report.py` is `harness report`: tables, figures and verdicts from records, in seconds, without GPU, training or torch.

python harness/report.py                    every table and figure, and the page results/report.html
harness report table1 --scale digits        one experiment: its table in the terminal and in results/tables/
harness report --compare digits toy         two record sets side by side: scales, or results folders
harness report --tensorboard                the curves as TensorBoard event files, in results/tensorboard/

A figure is drawn again only where its data, the code or the versions that draw it, or its files have changed (figures/cache/).
`make setup` has drawn those of the published records.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("jinja2", "matplotlib", "pandas", "pydantic", "rich", "scipy")
"""Packages that the report imports."""


def _stand_alone() -> None:
    """For `python harness/report.py`: imports from the project root, and restarts with the Python of .venv if a package is missing."""
    root = Path(__file__).resolve().parent.parent
    sys.path[:1] = [str(root)]  # instead of harness/
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        python = root / ".venv" / "bin" / "python"
        if not python.exists() or Path(sys.prefix) == root / ".venv":
            raise SystemExit(f"{missing[0]} is missing; set the project up with: make setup")
        os.execv(python, [str(python), __file__, *sys.argv[1:]])


if __name__ == "__main__":
    _stand_alone()

from harness import cli  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """`harness report` with these arguments, by default those of the command line; returns the exit code."""
    return cli.main(["report", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
