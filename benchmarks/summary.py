"""From measured numbers to sentences that say whether the goals are met, and to the page docs/benchmarks.md."""

import math

NETWORKS = ("UNet", "SegResNet")
AMPLE = "hybrid, ample"


def goals(cases: dict) -> list[dict]:
    """Each goal with what was measured in every case it concerns; the worst case decides."""
    real = {key: case for key, case in cases.items() if case["network"] in NETWORKS}
    whole = {key: case for key, case in real.items() if key != "region"}
    many = {key: case for key, case in whole.items() if case["windows"] >= 125}
    rival = "MONAI + checkpoint"
    found = [
        _ratio("two-pass costs at most 1.10 × the floor 2F+B", whole, "two-pass", "floor 2F+B", 1.10),
        _ratio("hybrid with an ample budget costs at most 1.10 × the floor F+B", whole, AMPLE, "floor F+B", 1.10),
        _ratio("hybrid takes at most 1.05 × the time of naive autograd", real, AMPLE, "naive autograd.grad", 1.05),
        _ratio(f"two-pass takes at most 0.80 × the time of {rival} from 125 windows", many, "two-pass", rival, 0.80),
        _ratio(f"hybrid takes at most 0.80 × the time of {rival} from 125 windows", many, AMPLE, rival, 0.80),
        _ratio(
            f"two-pass takes at most a third of the memory of {rival} from 125 windows", many, "two-pass", rival, 1 / 3
        ),
        *(_exponent(cases, arm) for arm in ("two-pass", AMPLE, "naive autograd.grad")),
        _error(whole),
    ]
    return [goal for goal in found if goal is not None]


def _ratio(claim: str, cases: dict, arm: str, against: str, limit: float) -> dict | None:
    key = "peak_bytes" if "memory" in claim else "cpu_s"
    values = {
        case["title"]: case["arms"][arm][key] / case["arms"][against][key]
        for case in cases.values()
        if key in case["arms"][arm] and key in case["arms"][against]
    }
    if not values:
        return None
    worst = max(values, key=lambda title: values[title])
    met = sum(value <= limit for value in values.values())
    sentence = f"{claim}: {_verdict(met, len(values))}; worst {values[worst]:.2f} ({worst})"
    if values[worst] > limit:
        sentence += f", {100 * (values[worst] / limit - 1):.0f} % above the goal"
    return {"sentence": sentence + ".", "limit": limit, "met": met == len(values), "values": values}


def _exponent(cases: dict, arm: str) -> dict | None:
    """Growth of the time with the number of windows, for one network between the fewest and the most windows."""
    series = sorted(
        (case["windows"], case["arms"][arm]["cpu_s"]) for key, case in cases.items() if key.startswith("unet-3-")
    )
    if len(series) < 2:
        return None
    (few, short), (many, long) = series[0], series[-1]
    value, limit = math.log(long / short) / math.log(many / few), 1.05
    ours = not arm.startswith("naive")
    sentence = f"time of {arm} grows with the number of windows ({few} to {many}) to the power {value:.2f}"
    sentence += (
        f"; the goal, at most {limit}, is {'met' if value <= limit else 'not met'}." if ours else ", for comparison."
    )
    return {
        "sentence": sentence,
        "limit": limit if ours else None,
        "met": value <= limit if ours else None,
        "values": {arm: value},
    }


def _error(cases: dict) -> dict:
    values = {
        f"{case['title']}, {arm}": row["gradient_error"]
        for case in cases.values()
        for arm, row in case["arms"].items()
        if arm.startswith(("two-pass", "hybrid")) and row.get("gradient_error") is not None
    }
    worst, limit = max(values.values()), 1e-6
    state = "met" if worst < limit else "not met"
    claim = "gradients agree with autograd through MONAI to a relative error below 1e-6 (float32)"
    sentence = f"{claim}: {state}; worst {worst:.1e}."
    return {"sentence": sentence, "limit": limit, "met": worst < limit, "values": values}


def _verdict(met: int, total: int) -> str:
    if met == total:
        return f"met in all {total} cases" if total > 1 else "met"
    return f"not met in {total - met} of {total} cases" if total > 1 else "not met"


def markdown(results: dict) -> str:
    machine, versions = results["machine"], results["versions"]
    lines = [
        "# Benchmarks of the sliding-window gradient",
        "",
        f"{results['date']} · {machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s) used · "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f" · `{results['command']}`",
        "",
        "One gradient of a cross-entropy with respect to the input; window 32³, overlap 0.5, gaussian blending, "
        f"4 windows per network call. CPU time of the process, median of {results['rounds']} interleaved rounds; "
        "memory is what one run adds to a fresh process (the volume-sized buffers of the objective are part of it). "
        "The floors run every window once (F+B) or twice (2F+B) forward and once backward, and blend nothing.",
        "",
    ]
    if machine["load_before"] > 0.5:
        lines += [
            f"The machine was busy (load {machine['load_before']:.1f} before, {machine['load_after']:.1f} after): "
            "caches were shared, so ratios are less certain than the digits suggest.",
            "",
        ]
    if results["quick"]:
        lines += ["A quick run on few cases: it shows that the measurement works, not what the project achieves.", ""]
    lines += ["## Goals", "", *(f"- {goal['sentence']}" for goal in results["goals"]), ""]
    for case in results["cases"].values():
        lines += [f"## {case['title']}", "", *_table(case), ""]
    return "\n".join(lines)


def _table(case: dict) -> list[str]:
    arms = case["arms"]
    rows = ["| arm | ms per window | × (F+B) | × (2F+B) | memory, MB | gradient error |", "|---|--:|--:|--:|--:|--:|"]
    for name, row in arms.items():
        if "absent" in row:
            rows.append(f"| {name} | {row['absent']} | | | | |")
            continue
        floors = (row["cpu_s"] / arms[floor]["cpu_s"] for floor in ("floor F+B", "floor 2F+B"))
        memory = f"{row['peak_bytes'] / 2**20:.0f}" if "peak_bytes" in row else ""
        error = f"{row['gradient_error']:.0e}" if row["gradient_error"] is not None else ""
        ratios = " | ".join(f"{ratio:.2f}" for ratio in floors)
        rows.append(f"| {name} | {row['ms_per_window']:.2f} | {ratios} | {memory} | {error} |")
    return rows
