"""A real SLURM on this machine, started and stopped by tests: no systemd, no containers, nothing shared with a system SLURM.

PYTEST_DONT_REWRITE: a plugin that test modules also import by name; there is no assert in it.

Use. Needs root and Debian's slurm-wlm and munge, for accounting also slurmdbd and mariadb-server (`.ci/install-slurm`):

    pytest_plugins = ["slurm_cluster"]                          # at the top of a test module; registered once, however many say so

    def test_something(slurm, tmp_path):                        # or slurm_accounting: the same with sacct
        executor = submitit.AutoExecutor(folder=tmp_path, cluster="slurm")
        ...

Both fixtures start their daemons once per session, put the cluster's environment into os.environ for the test, and cancel what the
test left behind. `SlurmCluster(folder, max_array_size=6)` as a context manager (with `.active()`) is a cluster of one's own: about
1 s to start, 4 s with accounting. Without SLURM or root such tests are skipped, with HARNESS_REQUIRE_SLURM=1 they fail.
`python tests/slurm_shell.py COMMAND ...` runs a command beside such a cluster.

Time limits are whole minutes and are checked every 30 s, at times fixed when slurmctld starts; neither can be configured. At a look
slurmctld sends the warning signal to jobs whose end is nearer than their signal delay + 30 s, and ends those whose time is over. So a
job with `timeout_min=1` gets USR2 at the first look, 0 to 30 s after its start, possibly before Python has installed a handler, and
then it dies of it: give jobs `timeout_min=5` (delay 90 s: nothing before 3 minutes), and time them out on purpose once they run:
- `expire(job, 90)`: USR2 at the next look (0 to 30 s, 15 on average), the end 90 s from now: the fastest natural time-out with requeue;
- `expire(job)`: USR2, TERM, 2 s, KILL at the next look: state TIMEOUT, whatever the job does;
- `scancel --signal=USR2 JOB`: the same signal as in the first case, at once.
Let jobs wait for the same look together rather than one after another.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from slurm_conf import SlurmConf, short_hostname, slurmdbd_conf

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "srun", "setpriv")
ACCOUNTING_DAEMONS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr", "sacct")
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"])
LONGEST_FOLDER = 70  # bytes; a unix socket's path ends at 107, and slurmd appends "spool/<node>_<job>.<step>"
_first_job_ids = itertools.count(1000, 10_000)


def slurm_available(accounting: bool = False) -> tuple[bool, str]:
    """(True, "") where a cluster can be started, otherwise (False, what is missing)."""
    missing = [name for name in DAEMONS + ACCOUNTING_DAEMONS * accounting if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        return False, f"no SLURM on this machine (missing: {', '.join(missing)}); .ci/install-slurm installs it"
    if os.geteuid() != 0:
        return False, "a private SLURM has to be started as root"
    return True, ""


def require_slurm(accounting: bool = False) -> None:
    """Skip the running test where SLURM is missing; fail it if HARNESS_REQUIRE_SLURM=1 says that it must not be."""
    available, reason = slurm_available(accounting)
    if not available and os.environ.get("HARNESS_REQUIRE_SLURM") == "1":
        pytest.fail(f"HARNESS_REQUIRE_SLURM=1, but {reason}", pytrace=False)
    if not available:
        pytest.skip(reason)


class SlurmCluster:
    """One node, one partition `main`, in `folder` (new or empty, at most 70 bytes); a context manager that starts and stops it.

    accounting: with slurmdbd and MariaDB, so that sacct answers and unknown accounts are refused (there are `lab` and `root`), or
    without. max_array_size: array indices end below it. cpus, gpus (at most 4): what a node claims to have, whatever the machine has.
    nodes: 2 starts two slurmd, named so that both names lead to this machine. extra: more lines of slurm.conf.
    """

    def __init__(
        self,
        folder: Path,
        accounting: bool = False,
        *,
        max_array_size: int = 1001,
        cpus: int = 8,
        gpus: int = 0,
        nodes: int = 1,
        extra: Sequence[str] = (),
    ) -> None:
        if len(os.fsencode(folder)) > LONGEST_FOLDER:
            raise ValueError(f"{folder} is longer than {LONGEST_FOLDER} bytes: too long for the unix sockets in it")
        self.folder = Path(folder).resolve()
        self.accounting = accounting
        self.account = "lab" if accounting else None
        self.partition = "main"
        self.nodes = _node_names()[:nodes]
        self.conf = self.folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf), "PATH": SEARCH_PATH}
        self.start_seconds = 0.0
        self._settings = SlurmConf(self.nodes, max_array_size, cpus, gpus, accounting, next(_first_job_ids), tuple(extra))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SlurmCluster:
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Talking to it

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> str:
        """Standard output of `command`, run in the cluster's environment; CalledProcessError (with stderr in its notes) on failure."""
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(done.stdout + done.stderr)
            raise error
        return done.stdout

    @contextlib.contextmanager
    def active(self) -> Iterator[SlurmCluster]:
        """Inside, this process and its children see this cluster: os.environ holds `env`, and no SLURM_* of another cluster."""
        before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            del os.environ[name]
        os.environ.update(self.env)
        try:
            yield self
        finally:
            os.environ.clear()
            os.environ.update(before)

    def job(self, job_id: str | int) -> dict[str, str]:
        """`scontrol show job` of one job (`7`, or `7_2` of an array) as a dictionary; empty once SLURM has forgotten it."""
        text = self.run("scontrol", "--oneliner", "show", "job", str(job_id), check=False)
        return dict(pair.split("=", 1) for pair in text.partition("\n")[0].split() if "=" in pair)

    def state(self, job_id: str | int) -> str:
        """The job's state as slurmctld has it: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, TIMEOUT, ...; "" if unknown."""
        return self.job(job_id).get("JobState", "")

    def wait_state(self, job_id: str | int, *states: str, timeout: float = 90) -> str:
        """Wait until the job is in one of `states` and return that state; TimeoutError."""
        wait_for(lambda: self.state(job_id) in states, timeout, lambda: f"job {job_id}: {self.job(job_id)}, wanted {states}")
        return self.state(job_id)

    def wait_ready(self, timeout: float = 90) -> None:
        """Wait until every node takes jobs, and bring back those that a fault has drained; TimeoutError with the logs' last lines."""

        def ready() -> bool:
            states = dict(line.split() for line in self.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False).splitlines())
            for node in [node for node, state in states.items() if state.startswith(("down", "drain", "inval"))]:
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
            return set(states) == set(self.nodes) and set(states.values()) <= {"idle", "mixed", "allocated", "completing"}

        wait_for(ready, timeout, self.log_tails)

    def cancel_all(self) -> None:
        """Cancel every job, wait until none is left running or completing, and end the orphans of killed step daemons."""
        self.run("scancel", "--quiet", "--user=root", check=False)
        wait_for(lambda: not self.run("squeue", "--noheader", check=False).strip(), 90, self.log_tails)
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if b"\0SLURM_JOB_ID=" in Path(f"/proc/{pid}/environ").read_bytes():
                    _signal(pid, signal.SIGKILL)

    # Faults

    def step_daemons(self, job_id: str | int) -> dict[str, int]:
        """Process ids of the job's running slurmstepd, by step: {"batch": 123, "0": 124}."""
        raw_id = self.job(job_id).get("JobId", "")
        return {step: pid for (job, step), pid in self._step_daemons().items() if job == raw_id}

    def kill_step(self, job_id: str | int, *steps: str) -> list[int]:
        """kill -9 the slurmstepd of a running job: of all its steps or of those named ("batch", "0"); returns their process ids.

        The job's own processes live on as orphans that nobody signals or waits for (not even scancel), and the job stays RUNNING.
        After `register_node`, 11 s after its start or later: all killed, it is requeued (a second process beside the orphan); only "0",
        it is COMPLETED with exit code 0:0 beside the orphan; only "batch", it stays RUNNING until its time limit, result or not.
        """
        killed = [pid for step, pid in self.step_daemons(job_id).items() if not steps or step in steps]
        for pid in killed:
            _signal(pid, signal.SIGKILL)
        return killed

    def register_node(self) -> None:
        """Let the nodes report their jobs at once instead of every half hour, so that slurmctld misses those that are gone."""
        self.run("scontrol", "reconfigure")

    def expire(self, job_id: str | int, seconds: int = 2) -> None:
        """Let a running job's time end in so many seconds; slurmctld checks every 30 s (see the top of the file)."""
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))
        self.run("scontrol", "update", f"JobId={job_id}", f"EndTime={end}")

    def kill(self, daemon: str) -> None:
        """kill -9 one of the daemons: slurmctld, slurmd, slurmdbd, or slurmd of the second node as slurmd-localhost."""
        process = self._processes.pop(daemon)
        process.kill()
        process.wait()

    def start(self, daemon: str) -> None:
        """Start a daemon that was killed."""
        name, _, node = daemon.partition("-")
        self._spawn(daemon, name, "-D", *(["-N", node or self.nodes[0]] if name == "slurmd" else []))

    # Starting and stopping

    def _start_all(self) -> None:
        began = time.monotonic()
        for name in ("", "state", "spool", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 + len(self.nodes))
        self._write("slurm.conf", self._settings.text(self.folder, *ports))
        self._write("gres.conf", self._settings.gres_text())
        if self._version() >= (23, 11):  # later slurmd insist on control groups, earlier ones do not know this setting
            self._write("cgroup.conf", "CgroupPlugin=disabled\n")
        self._start_munged()
        if self.accounting:
            self._start_database(ports[1])
        self.start("slurmctld")
        for index, node in enumerate(self.nodes):
            (self.folder / "spool" / node).mkdir()
            self.start(f"slurmd-{node}" if index else "slurmd")
        self.wait_ready()
        self.start_seconds = time.monotonic() - began

    def _version(self) -> tuple[int, int]:
        major, minor = re.search(r"(\d+)\.(\d+)", self.run("slurmctld", "-V")).groups()
        return int(major), int(minor)

    def _start_munged(self) -> None:
        self._write("munge.key", os.urandom(128))
        files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "pid", "seed", "log")]
        self._spawn("munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        wait_for(lambda: _answers(self.folder / "munge.socket"), 90, self.log_tails)

    def _start_database(self, port: int) -> None:
        data, sock = self.folder / "mysql", self.folder / "mysql.socket"
        as_root = ("--no-defaults", "--user=root", f"--datadir={data}")
        small = ("--innodb-log-file-size=4M", "--innodb-buffer-pool-size=32M", "--innodb-flush-method=nosync", "--debug-no-sync")
        self.run("mariadb-install-db", *as_root, *small, "--auth-root-authentication-method=normal", "--skip-test-db")
        private = (f"--socket={sock}", f"--pid-file={self.folder}/mysql.pid", "--skip-networking")
        self._spawn("mariadbd", "mariadbd", *as_root, *small, *private)
        wait_for(lambda: _answers(sock), 90, self.log_tails)
        self._write("slurmdbd.conf", slurmdbd_conf(self.folder, port))
        self.start("slurmdbd")
        wait_for(lambda: "root" in self.run("sacctmgr", "--noheader", "list", "user", check=False), 90, self.log_tails)
        for entity in (("cluster", "test"), ("account", self.account), ("user", "root", f"account={self.account}")):
            self.run("sacctmgr", "--immediate", "add", *entity)

    def _spawn(self, name: str, *command: str) -> None:
        log = (self.folder / "logs" / f"{name}.out").open("ab")
        self._processes[name] = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env={**self._environment(), "MYSQL_UNIX_PORT": str(self.folder / "mysql.socket")},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def _environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | self.env

    def _write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def log_tails(self, lines: int = 15) -> str:
        """The last lines of every daemon's log, for messages."""
        logs = sorted((self.folder / "logs").glob("*"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in logs)

    def stop(self) -> None:
        """kill -9 the daemons, the jobs and whatever they started, and delete all but the configuration and the logs. May be repeated."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        wait_for(lambda: not [_signal(pid, signal.SIGKILL) for pid in self.processes()], 30, lambda: str(self.processes()))
        for name in ("mysql", "spool", "state"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def processes(self) -> dict[int, str]:
        """{process id: command line} of all that lives of this cluster: daemons (known by their folder) and jobs (by SLURM_CONF)."""
        mark = f"SLURM_CONF={self.conf}".encode()
        alive = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it has just ended
                if entry.joinpath("cwd").readlink() == self.folder or mark in entry.joinpath("environ").read_bytes().split(b"\0"):
                    alive[int(entry.name)] = entry.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return alive

    def _step_daemons(self) -> dict[tuple[str, str], int]:
        titles = {pid: re.match(r"slurmstepd: \[(\d+)\.(\w+)\]", command) for pid, command in self.processes().items()}
        return {(title[1], title[2]): pid for pid, title in titles.items() if title}


def wait_for(condition: Callable[[], bool], timeout: float, report: Callable[[], str], interval: float = 0.05) -> None:
    """Poll until `condition()`; TimeoutError with `report()` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {report()}")
        time.sleep(interval)


@contextlib.contextmanager
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new folder for a cluster: pytest's own, or where its name is too long for sockets one below /tmp that is removed in the end."""
    folder = tmp_path_factory.mktemp("s") / "slurm"
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def free_ports(count: int) -> list[int]:
    """TCP ports free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for tcp in sockets:
            tcp.bind(("127.0.0.1", 0))
        return [tcp.getsockname()[1] for tcp in sockets]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as tcp:
        return tcp.connect_ex(str(path)) == 0


def _node_names() -> list[str]:
    """Names that lead to this machine, the host's own first: a job of several tasks finds its first node by name."""
    with contextlib.suppress(OSError):
        socket.gethostbyname(short_hostname())
        return [short_hostname(), "localhost"]
    return ["localhost"]


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.fixture(scope="session")
def slurm_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A running SlurmCluster without accounting, for the whole session."""
    require_slurm()
    with short_folder(tmp_path_factory) as folder, SlurmCluster(folder) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_accounting_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A running SlurmCluster with accounting, for the whole session."""
    require_slurm(accounting=True)
    with short_folder(tmp_path_factory) as folder, SlurmCluster(folder, accounting=True) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_daemons: SlurmCluster) -> Iterator[SlurmCluster]:
    """The session's cluster without accounting, in os.environ and idle; what the test leaves in it is cancelled."""
    yield from _lend(slurm_daemons)


@pytest.fixture
def slurm_accounting(slurm_accounting_daemons: SlurmCluster) -> Iterator[SlurmCluster]:
    """The session's cluster with accounting, in os.environ and idle; what the test leaves in it is cancelled."""
    yield from _lend(slurm_accounting_daemons)


def _lend(cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    cluster.wait_ready()
    with cluster.active():
        try:
            yield cluster
        finally:
            cluster.cancel_all()
