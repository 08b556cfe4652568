"""python tests/slurm_shell.py [--accounting] COMMAND ...: runs a command beside a fresh one-node SLURM; exits with its exit code.

For example `python tests/slurm_shell.py make sweep-mu SCALE=toy EXECUTOR=slurm`, or `bash` to look around. As root.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from slurm_cluster import SlurmCluster, slurm_available


def main(arguments: Sequence[str]) -> int:
    accounting = arguments[:1] == ["--accounting"]
    command = arguments[accounting:]
    available, reason = slurm_available(accounting)
    if not command or not available:
        print(reason or __doc__, file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        SlurmCluster(Path(folder), accounting) as cluster,
        cluster.active(),
    ):
        print(f"SLURM_CONF={cluster.conf}  partition={cluster.partition}  account={cluster.account}", file=sys.stderr)
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
