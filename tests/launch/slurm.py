"""A Slurm of two nodes on this machine, as an unprivileged site would have it: own folder, own ports, own munge."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.processes import free_port, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "srun")


def absent() -> str | None:
    """Why no Slurm can be started here."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"slurm: {', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    return "slurm: its daemons need root" if os.geteuid() else None


class Slurm:
    """Commands of the Slurm in ``folder``, and its nodes' misfortunes."""

    def __init__(self, folder: Path):
        self._folder = folder
        active = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # jobs take `python` from there
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": active}

    def __call__(self, *words: str, **environment: str) -> str:
        """A Slurm command's output."""
        done = subprocess.run(
            words, env=self.environment | environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def start_node(self, name: str) -> None:
        self("slurmd", "-N", name)

    def kill_node(self, name: str, job: str) -> None:
        """As a power cut would: its daemon, and all that runs there of the job, with kill -9."""
        doomed = {psutil.Process(int((self._folder / f"slurmd-{name}.pid").read_text()))}
        wanted = {"SLURM_CONF": self.environment["SLURM_CONF"], "SLURMD_NODENAME": name, "SLURM_JOB_ID": job}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if wanted.items() <= process.environ().items():
                    doomed |= {process, *(p for p in process.parents() if p.name() == "slurmstepd")}
        assert len(doomed) > 2
        for process in doomed:
            process.kill()


@contextmanager
def two_nodes(folder: Path) -> Iterator[Slurm]:
    """Nodes ``a`` and ``b`` of one CPU each."""
    for name in ("state", "spool-a", "spool-b", "munge"):
        (folder / name).mkdir(parents=True)
    munge = folder / "munge"
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o600)
    host = socket.gethostname()
    ports = [free_port() for _ in range(3)]
    (folder / "slurm.conf").write_text(
        f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
ReturnToService=2
SlurmdTimeout=15
NodeName=a NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=b NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=a,b Default=YES MaxTime=INFINITE State=UP
"""
    )
    slurm = Slurm(folder)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    slurm("munged", "--force", *[f"--{option}={munge / name}" for option, name in files.items()])
    try:
        slurm("slurmctld", "-i")
        for node in "ab":
            slurm.start_node(node)
        wait_for(lambda: slurm("sinfo", "--noheader", "--format=%D %t") == "2 idle", 30, "two idle nodes")
        yield slurm
    finally:
        slurm("scancel", "--full", "--quiet", f"--user={os.environ.get('USER', 'root')}")  # of a test that failed
        wait_for(lambda: not slurm("squeue", "--noheader"), 90, "the jobs' end")
        slurm("scontrol", "shutdown")
        daemons = [folder / f"{name}.pid" for name in ("slurmctld", "slurmd-a", "slurmd-b")]
        wait_for(lambda: not any(path.exists() for path in daemons), 60, "Slurm's end")
        os.kill(int((munge / "pid").read_text()), signal.SIGTERM)
