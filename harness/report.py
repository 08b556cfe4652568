"""The report: tables, figures and verdicts from the records at hand, in seconds, without GPU, training or torch.

python harness/report.py                    every table and figure, and the page results/report.html
harness report table1 --scale digits        one experiment: its table in the terminal and in results/tables/
harness report --compare digits toy         two record sets side by side: scales, or results folders
harness report --tensorboard                the curves as TensorBoard event files, in results/tensorboard/
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
        import matplotlib  # noqa: F401
        import pandas  # noqa: F401
        import pydantic  # noqa: F401
        import rich  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        python = root / ".venv" / "bin" / "python"
        if not python.exists() or os.environ.get("HARNESS_REPORT_VENV"):
            raise SystemExit(f"{error.name} is missing; set the project up with: make setup") from None
        os.environ["HARNESS_REPORT_VENV"] = "1"
        os.execv(python, [str(python), str(Path(__file__).resolve()), *sys.argv[1:]])


if __name__ == "__main__":
    _stand_alone()

from harness.errors import HarnessError  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """`harness report ...`; returns an exit code: 2 for bad input."""
    try:
        arguments = _parser().parse_args(sys.argv[1:] if argv is None else list(argv))
        from harness.locations import results_root
        from harness.reporting import produce

        root = arguments.results or results_root()
        if arguments.compare:
            return produce.compare(root, *arguments.compare)
        if arguments.tensorboard:
            return produce.tensorboard(root, arguments.scale)
        if arguments.experiment:
            selection = (arguments.seeds, arguments.set, arguments.coupling)
            return produce.experiment(root, arguments.experiment, arguments.scale or "digits", *selection)
        return produce.everything(root, arguments.scale)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, head or less, has seen enough; the files are written by then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser():
    from harness.arguments import Parser, seeds
    from harness.config.run import SCALE_NAMES

    parser = Parser(prog="harness report", description="Redraw tables, figures and verdicts from the records at hand. Nothing is trained.")
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="a file of experiments/, without .py; all of them by default")
    parser.add_argument("--results", type=Path, metavar="DIR", help="the results folder; default $HARNESS_RESULTS or results/")
    parser.add_argument("--scale", choices=SCALE_NAMES, help="default: every scale at hand, or digits for one experiment")
    parser.add_argument("--seeds", type=seeds, metavar="N|A,B,...", help="as for the sweep")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for the sweep")
    parser.add_argument("--coupling", action="append", default=[], metavar="FILE.py:FUNCTION", help="as for the sweep")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two scales, or two results folders, side by side")
    parser.add_argument("--tensorboard", action="store_true", help="write the curves as TensorBoard event files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
