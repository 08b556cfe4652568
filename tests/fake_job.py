"""A stand-in for harness.training.job with the same contract, made of sleeps and files; without torch, so launchers are tested in seconds.

$FAKE_JOBS names a JSON file: seed -> behaviour. sleep: seconds a step. fail: kind of a final error. exit: exit code without an error.
kill_at: steps at which it kills itself (each once). kill_before: the step that it never survives. again_at: steps at which it is
STOPPED. stuck: it always ends as STOPPED before a step is done.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from harness.store.exit_codes import ExitCode
from harness.store.files import write_atomic
from harness.store.lease import Busy, LeaseLost
from harness.store.runs import RunFolder


def main(argv=None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--deadline", type=float)
    options = parser.parse_args(argv)
    folder = RunFolder(Path(options.folder))
    stop = []
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    try:
        with folder.acquire(interval=0.2) as lease:
            return train(folder, lease, stop, options)
    except (Busy, LeaseLost) as error:
        print(error, file=sys.stderr)
        return ExitCode.BUSY


def train(folder: RunFolder, lease, stop: list, options) -> int:
    if folder.result():
        return ExitCode.DONE
    config = folder.config()
    behaviour = json.loads(Path(os.environ["FAKE_JOBS"]).read_text()).get(str(config["seed"]), {}) if "FAKE_JOBS" in os.environ else {}
    checkpoint = folder.path / "state.json"
    state = {"step": 0, "hash": config["seed"]}
    with contextlib.suppress(FileNotFoundError, ValueError):
        state = json.loads(checkpoint.read_bytes())
    folder.add_attempt({"pid": os.getpid(), "step": state["step"], "time": time.time(), "device": options.device,
                        "limit": resource.getrlimit(resource.RLIMIT_AS)[0],
                        "threads": os.environ.get("OMP_NUM_THREADS"), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")})  # fmt: skip
    total, began = config["train"]["steps"], time.monotonic()
    if behaviour.get("stuck"):
        return ExitCode.STOPPED
    if behaviour.get("fail") == "input":
        folder.write_error("input", "no data set", step=0)
        return ExitCode.BAD_INPUT
    for step in range(state["step"] + 1, total + 1):
        time.sleep(behaviour.get("sleep", 0.005))
        if behaviour.get("kill_before") == step:
            os.kill(os.getpid(), signal.SIGKILL)
        state = {"step": step, "hash": hashlib.sha256(f"{state['hash']}/{step}".encode()).hexdigest()}
        lease.check()
        write_atomic(checkpoint, json.dumps(state).encode(), durable=False)
        lease.beat(step=step, total=total, rate=(step - 0.0) / (time.monotonic() - began + 1e-9), loss=1 / step, fid=100 / step, force=True)
        if once(folder, step, behaviour.get("kill_at", ())):
            os.kill(os.getpid(), signal.SIGKILL)
        late = options.deadline is not None and time.monotonic() - began > options.deadline
        if stop or late or once(folder, step, behaviour.get("again_at", ())):
            return ExitCode.STOPPED
    if "exit" in behaviour:
        return behaviour["exit"]
    if "fail" in behaviour:
        folder.write_error(behaviour["fail"], "loss is nan", step=total)
        return ExitCode.FAILED
    if not folder.records():  # killed between record and result, it must not measure twice
        folder.append_records([{"step": total, "metric": "fid", "value": 1.0}])
    folder.write_result({"hash": state["hash"], "rate": 50.0, "device": os.environ.get("FAKE_DEVICE", "cpu"), "fid": 1.5})
    return ExitCode.DONE


def once(folder: RunFolder, step: int, steps) -> bool:
    mark = folder.path / f"once-{step}"
    if step not in steps or mark.exists():
        return False
    mark.touch()
    return True


def instant(argv) -> int:
    """A run that takes no time, to measure the launcher."""
    (Path(argv[0]) / "result.json").write_text("{}")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
