"""The configuration of the SLURM that tests start (slurm_cluster.py).

Which lines matter, and why (measured with SLURM 22.05):
- config_overrides lets a node claim more CPUs than the machine has; with task/none nothing is pinned. A GPU needs a device file.
- cred_expire=5 (the least): a requeued job waits cred_expire + 1 s, 121 s by default. KillWait=2: SIGTERM, 2 s, SIGKILL.
- BatchStartTimeout=1: a job whose slurmstepd are all dead is missed when its node registers, if it started more than
  BatchStartTimeout + MessageTimeout = 11 s ago (20 s by default).
- sched_interval=1 and bf_interval=1: a job starts within a second of being submitted or freed.
- FirstJobId differs from cluster to cluster, because submitit caches states by job id for the whole process.
- AccountingStoragePass names the munge socket once more; without it slurmdbd's clients ask /run/munge/munge.socket.2.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

FAKE_GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")  # SLURM counts only GPUs that have a device file


@dataclass(frozen=True)
class SlurmConf:
    """What differs from cluster to cluster."""

    nodes: list[str]
    max_array_size: int
    cpus: int
    gpus: int
    accounting: bool
    first_job_id: int
    extra: tuple[str, ...]

    def text(self, folder: Path, controller: int, database: int, *daemons: int) -> str:
        """slurm.conf of a cluster in `folder`, with the ports of slurmctld, of slurmdbd and of each node's slurmd."""
        host = short_hostname()
        node = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs={self.cpus} Sockets=1 CoresPerSocket={self.cpus} ThreadsPerCore=1"
        node += f" RealMemory=1000000 State=UNKNOWN{f' Gres=gpu:{self.gpus}' if self.gpus else ''}"
        accounting = [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={database}",
            f"AccountingStoragePass={folder}/munge.socket",
            "AccountingStorageEnforce=associations,limits",
        ]
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={controller}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            f"AuthInfo=socket={folder}/munge.socket,cred_expire=5",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool/%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/slurmd-%n.pid",
            f"SlurmctldLogFile={folder}/logs/slurmctld.log",
            f"SlurmdLogFile={folder}/logs/slurmd-%n.log",
            "MailProg=/bin/true",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "SlurmdParameters=config_overrides",
            "SchedulerType=sched/backfill",
            "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
            f"MaxArraySize={self.max_array_size}",
            "MaxJobCount=20000",
            f"FirstJobId={self.first_job_id}",
            "JobRequeue=1",
            "MinJobAge=300",
            "KillWait=2",
            "OverTimeLimit=0",
            "InactiveLimit=0",
            "BatchStartTimeout=1",
            "ReturnToService=2",
            *(["GresTypes=gpu"] if self.gpus else []),
            *(f"NodeName={name} Port={port} {node}" for name, port in zip(self.nodes, daemons, strict=True)),
            f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP",
            *(accounting if self.accounting else []),
            *self.extra,
        ]
        return "\n".join(lines) + "\n"

    def gres_text(self) -> str:
        """gres.conf: the pretended GPUs."""
        return "".join(f"Name=gpu File={file}\n" for file in FAKE_GPUS[: self.gpus])


def slurmdbd_conf(folder: Path, port: int) -> str:
    """slurmdbd.conf; the database is reached over the socket in MYSQL_UNIX_PORT, as MariaDB's root, who has no password there."""
    return f"""AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
LogFile={folder}/logs/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def short_hostname() -> str:
    """The host's name without its domain, as SLURM compares it."""
    return socket.gethostname().partition(".")[0]
