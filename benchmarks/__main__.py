"""Measure, then write docs/benchmarks.json and docs/benchmarks.md:

    python -m benchmarks [--quick] [--cases CASE …] [--rounds 5] [--threads 1] [--out docs]
    python -m benchmarks attacks --help        every attack, a short run
    python -m benchmarks strength --help       how strong each attack is for its effort
    python -m benchmarks catalogue --help      docs/attacks.md
    python -m benchmarks defenses --help       what each defence is worth, for docs/defences.md

The full run takes about an hour and wants a machine that does nothing else.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

# Threads that wait shall sleep: spinning would count as CPU seconds. To be set before PyTorch is loaded.
os.environ["OMP_WAIT_POLICY"] = "passive"
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import torch  # noqa: E402

import attacks  # noqa: E402
import bench_sliding  # noqa: E402
import catalogue  # noqa: E402
import defenses  # noqa: E402
import machine  # noqa: E402
import pages  # noqa: E402
import store  # noqa: E402
import strength  # noqa: E402
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
            "cpu": machine.processor(),
            "cores": os.cpu_count(),
            "threads": options.threads,
            "load_before": load,
            "load_after": os.getloadavg()[0],
        },
        "versions": machine.versions(),
        "rounds": rounds,
        "quick": options.quick,
        "cases": cases,
    }
    results["goals"] = summary.goals(cases)
    options.out.mkdir(parents=True, exist_ok=True)
    document = options.out / "benchmarks.json"
    for part in ("attacks", "strength"):  # what others measured stays
        results[part] = store.stored(document, part) or None
    document.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    path = options.out / "benchmarks.md"
    before, page = path.read_text(encoding="utf-8") if path.exists() else "", summary.markdown(results)
    for heading in pages.SECTIONS:
        if section := pages.section_of(before, heading):
            page = pages.with_section(page, section)
    path.write_text(page.rstrip() + "\n", encoding="utf-8")
    for goal in results["goals"]:
        print(goal["sentence"])


def peak_bytes(key: str, arm: str, threads: int) -> int:
    """Memory of one arm in a process of its own."""
    command = [sys.executable, str(HERE / "bench_sliding.py"), key, arm, str(threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    others = {
        "attacks": attacks.main,
        "catalogue": catalogue.main,
        "defenses": defenses.main,
        "strength": strength.main,
    }
    if sys.argv[1:2] and sys.argv[1] in others:
        others[sys.argv[1]](sys.argv[2:])
    else:
        main()
