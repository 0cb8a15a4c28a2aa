"""Dask workers on a SLURM cluster, for `perturbox serve` and `perturbox study` with --scheduler ADDRESS. Run it on a
login or service node:

    python deploy/dask_on_slurm.py --partition gpu --jobs 4 --certificates /etc/perturbox/tls

It prints the address and holds the cluster until it is ended. Needs `pip install dask-jobqueue`, and on every node the
same environment, with the same victims at the same paths, as the server's. Who reaches a Dask scheduler can run code on
its workers: that is why scheduler, workers and server all need a certificate of this cluster's own authority.
"""

import argparse
import threading
from pathlib import Path

from dask_jobqueue import SLURMCluster
from distributed import Security


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partition", default="gpu")
    parser.add_argument("--jobs", type=int, default=1, help="SLURM jobs, one worker each")
    parser.add_argument("--gpus", type=int, default=1, help="of each job")
    parser.add_argument("--cpus", type=int, default=8)
    parser.add_argument("--memory", default="64GB")
    parser.add_argument("--walltime", default="12:00:00")
    parser.add_argument("--interface", help="network interface of the nodes, e.g. ib0")
    parser.add_argument("--certificates", type=Path, required=True, help="folder with ca.pem, cluster.pem, cluster.key")
    parser.add_argument("--show", action="store_true", help="print the job's script and submit nothing")
    options = parser.parse_args()
    files = {name: str(options.certificates / name) for name in ("ca.pem", "cluster.pem", "cluster.key")}
    pairs = {f"tls_{role}_{part}": files[f"cluster.{end}"] for role in ROLES for part, end in PARTS}
    cluster = SLURMCluster(
        queue=options.partition,
        processes=1,
        cores=1,  # of Dask: one attack at a time in each worker
        job_cpu=options.cpus,
        memory=options.memory,
        walltime=options.walltime,
        interface=options.interface,
        protocol="tls",
        security=Security(tls_ca_file=files["ca.pem"], require_encryption=True, **pairs),
        shared_temp_directory=str(Path.home()),
        job_extra_directives=[f"--gres=gpu:{options.gpus}"] if options.gpus else [],
        job_script_prologue=[f"export OMP_NUM_THREADS={options.cpus}", "export OMP_WAIT_POLICY=passive"],
        scheduler_options={"dashboard": False},
    )
    if options.show:
        print(cluster.job_script())
        return
    # Unlike `scale`, it submits a job again when one was cancelled or its time was up.
    cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs)
    print(f"--scheduler {cluster.scheduler_address}", flush=True)
    threading.Event().wait()


ROLES = ("client", "scheduler", "worker")
PARTS = (("cert", "pem"), ("key", "key"))

if __name__ == "__main__":
    main()
