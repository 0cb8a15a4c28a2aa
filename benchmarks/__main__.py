"""Measure, then write docs/benchmarks.json and docs/benchmarks.md:

    python -m benchmarks [--quick] [--cases CASE …] [--rounds 5] [--threads 1] [--out docs]

The full run takes about an hour and wants a machine that does nothing else.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

# Threads that wait shall sleep: spinning would count as CPU seconds. To be set before PyTorch is loaded.
os.environ["OMP_WAIT_POLICY"] = "passive"
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import monai  # noqa: E402
import torch  # noqa: E402

import bench_sliding  # noqa: E402
import pages  # noqa: E402
import perturbox  # noqa: E402
import summary  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four small cases, three rounds, memory of one case")
    parser.add_argument("--cases", nargs="+", choices=list(bench_sliding.CASES), help="only these cases")
    parser.add_argument("--rounds", type=int, help="measured rounds per case (default 5, quick 3)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 5)
    torch.set_num_threads(options.threads)

    chosen = options.cases or (bench_sliding.QUICK if options.quick else tuple(bench_sliding.CASES))
    load = os.getloadavg()[0]
    cases = {}
    for key in chosen:
        case = bench_sliding.CASES[key]
        rows = bench_sliding.measure(case, rounds, lambda line: print(line, file=sys.stderr, flush=True))
        if not options.quick or key == chosen[0]:
            for arm, row in rows.items():
                if "absent" not in row:
                    row["peak_bytes"] = peak_bytes(key, arm, options.threads)
        cases[key] = {"title": case.title, "windows": case.windows, "network": case.network, "arms": rows}

    results = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "machine": {
            "cpu": processor(),
            "cores": os.cpu_count(),
            "threads": options.threads,
            "load_before": load,
            "load_after": os.getloadavg()[0],
        },
        "versions": {
            "perturbox": perturbox.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
        },
        "rounds": rounds,
        "quick": options.quick,
        "cases": cases,
    }
    results["goals"] = summary.goals(cases)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "benchmarks.json").write_text(json.dumps(results, indent=1) + "\n")
    page = options.out / "benchmarks.md"
    server = pages.server_section(page.read_text()) if page.exists() else ""
    page.write_text(pages.with_server_section(summary.markdown(results), server).rstrip() + "\n")
    for goal in results["goals"]:
        print(goal["sentence"])


def peak_bytes(key: str, arm: str, threads: int) -> int:
    """Memory of one arm in a process of its own."""
    command = [sys.executable, str(HERE / "bench_sliding.py"), key, arm, str(threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
