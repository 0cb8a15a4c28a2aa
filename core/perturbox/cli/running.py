"""What each command does between its options and its words: check, estimate, run with a live display, summarise."""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from perturbox import io
from perturbox.against import run_framework
from perturbox.attacks.attack import Climb, Composed
from perturbox.attacks.fitting import fit_features
from perturbox.certificates.smoothed import Question
from perturbox.cli import words
from perturbox.cli.findings import findings, replay_lines
from perturbox.cli.progress import Progress, duration
from perturbox.defaults import UNITS
from perturbox.io.files import require_new_file, require_new_folder, require_new_label_map, require_writable, suffix
from perturbox.io.formats import VOLUMES
from perturbox.job import demo, estimate, folder
from perturbox.job.certify import certify_scan, estimate_certificate, prepare_certificate
from perturbox.job.execute import Job, Ready, execute, load_inputs, prepare, segment
from perturbox.job.margins import prepare_margin, search
from perturbox.job.recertify import is_certificate, write_page
from perturbox.judge.record import is_margin, read_margin, read_record, read_whole_record, write_json
from perturbox.judge.victim import Known, check_victim, told
from perturbox.load import load_victim, read_spec
from perturbox.report import FULL, write_comparison, write_report
from perturbox.report.check_page import write_check
from perturbox.types import InputError, Volume


def run_demo(out: Path | None) -> list[Any]:
    """The demo: its case lies beside its result once that is complete, so that an abandoned demo leaves nothing."""
    place = demo.free_folder(Path("demo")) if out is None else out
    require_new_folder(place)
    load_victim(demo.VICTIM)  # refuses an incomplete installation before the phantom takes its seconds
    print("Making a phantom CT", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="perturbox-") as folder:
        image = demo.write_case(Path(folder))
        lines = run_attack(demo.demo_job(image), place)
        for file in sorted(Path(folder).iterdir()):
            shutil.move(file, place / file.name)
    opened = [f"Open {place / 'report.html'} in a browser."] if (place / "report.html").is_file() else []
    return [*lines, f"The scan: {place / demo.SCAN}", *opened]


def write_phantom(file: Path) -> list[Any]:
    """The demo's phantom CT as a file of the user's own."""
    require_new_file(file)
    if suffix(file) not in VOLUMES:
        raise InputError(f"'{file}' can't hold a CT; name --scan something.nii.gz.")
    file.parent.mkdir(parents=True, exist_ok=True)
    demo.write_scan(file)
    return [f"The scan: {file}"]


def write_phantoms(out: Path, count: int) -> list[Any]:
    """Phantom CTs and their true labels as cases of a study."""
    require_new_folder(out)
    for place in (out / "images", out / "labels"):
        place.mkdir(parents=True)
    for seed in range(demo.SEED, demo.SEED + count):
        demo.write_labelled(out / "images" / f"phantom_{seed}.nii.gz", out / "labels" / f"phantom_{seed}.nii.gz", seed)
    return [f"The scans: {out / 'images'}", f"Their labels: {out / 'labels'}"]


def run_attack(job: Job, out: Path, goal_given: bool = False, full_report: bool = False) -> list[Any]:
    require_new_folder(out)
    ready = prepare(job)
    with Progress(ready.victim.labels, ready.attack.rounds) as progress:
        expected = estimate.estimate_attack(ready)
        progress.afterwards = expected.afterwards
        progress.announce(words.estimate_line(expected, attack_line(ready)))
        _require_room(expected, job)
        result = execute(ready, out, progress.listener(), full_report)
    return words.attack_summary(result, out, goal_given)


def _require_room(expected: estimate.Estimate, job: Job) -> None:
    """Raises InputError where the job would run out of memory, unless it was told to go on."""
    if not job.force:
        expected.require_room()


def attack_line(ready: Ready) -> str:
    attack, count = ready.attack, ready.parameters["steps"]
    members = len(attack.members) if isinstance(attack, Composed) else 0
    restarts = f" × {attack.restarts} restarts" if isinstance(attack, Climb) and attack.restarts > 1 else ""
    steps = f"{count} step{'s' if count != 1 else ''}{restarts}"
    if members:
        steps = f"{members} attack{'s' if members != 1 else ''} of up to {steps}"
    where = f"{' and '.join(model.name for model in ready.surrogates)} for " if ready.surrogates else ""
    return f"{ready.recipe.title} on {where}{ready.victim.name}, {steps}, and its judging"


def run_margin(job: Job, out: Path, max_eps: float | None, full_report: bool = False) -> list[Any]:
    require_new_folder(out)
    ready = prepare_margin(job, max_eps)
    with Progress(ready.victim.labels, ready.attack.rounds, lines=1) as progress:
        assert ready.job.eps is not None
        expected = estimate.estimate_margin(ready, ready.job.eps * ready.one)
        unit = "" if job.eps_unit == UNITS[0] else f" {words.unit_of(job.eps_unit, ready.image.unit)}"
        line = f"The margin of {ready.victim.name} up to {ready.job.eps:g}{unit}"
        progress.announce(words.estimate_line(expected, line, most=True))
        _require_room(expected, job)
        found = search(ready, out, progress.listener(), full_report)
    return words.margin_summary(found, out)


def run_segment(job: Job, out: Path) -> list[Any]:
    require_new_label_map(out)
    victim, scan, _, _ = load_inputs(job)
    with Progress(victim.labels, late_refusal=False) as progress:
        expected = estimate.estimate_prediction(victim, scan)
        progress.announce(words.estimate_line(expected, f"Segmenting with {victim.name}"))
        found = segment(job, out, progress.listener(), scan, victim)
    volumes = found["volumes_ml"]
    lines: list[Any] = [words.volumes_table(volumes, scan.sizes)]
    if not any(volumes.values()):
        lines.append("The model found none of its structures in this scan; is it the right body part and model?")
    return [*lines, *(f"Note: {warning}" for warning in found["warnings"]), f"Labels: {out}"]


def run_certify(job: Job, question: Question, out: Path) -> list[Any]:
    require_new_folder(out)
    asked = prepare_certificate(job, question)
    with Progress(asked.victim.labels) as progress:
        expected = estimate_certificate(asked)
        line = f"Certifying {asked.victim.name} by {asked.copies - 1} noisy copies"
        progress.announce(words.estimate_line(expected, line))
        _require_room(expected, job)
        document = certify_scan(asked, out, progress.listener())
    return words.certificate_summary(document, out)


def run_check(
    spec: str, image: str, against: str | None, python: str | None, out: Path | None, device: str, trust: bool
) -> tuple[dict[str, Any], list[Any]]:
    """(check.json, lines to print) of a model on a scan."""
    if out is not None:
        require_new_folder(out)
    victim = load_victim(spec, device, trust)
    scan = io.read_scan(image, unit=victim.unit, channels=victim.channels)
    found = check_victim(victim, scan, known(spec, scan, image, against, python, trust))
    lines = [f"{step['name']} ({step['kind']}): {step['sentence']}" for step in found["steps"]]
    lines += [f"{title}: {sentence}" for title, sentence in told(found)]
    if out is None:
        return found, lines
    out.mkdir(parents=True)
    write_json(out / "check.json", found)
    return found, [*lines, f"Open {write_check(out, found)} in a browser."]


def known(spec: str, scan: Volume, image: str, against: str | None, python: str | None, trust: bool) -> Known | None:
    """What `victim check --against` names: the framework's own run, or a label map."""
    if against is None:
        return None
    if against != "framework":
        return Known("a label map", io.read_labels(against, scan))
    theirs = run_framework(read_spec(spec), scan, Path(image), python or sys.executable, trust)
    return Known(theirs.framework, theirs.labels, theirs.input, theirs.scores, theirs.seconds)


def run_fit(
    scans: list[str],
    spec: str,
    out: Path,
    layers: tuple[str, ...],
    components: int,
    passes: int,
    seed: int,
    device: str,
    force: bool,
) -> list[Any]:
    require_new_file(out)
    if out.suffix != ".safetensors":
        raise InputError(f"'{out}' can't hold features; name --out something.safetensors.")
    if components < 1 or passes < 1:
        raise InputError(f"--components {components} and --passes {passes} must be at least 1.")
    victim = load_victim(spec, device)
    loaded = [load_inputs(Job(path, victim=spec, device=device, force=force), victim=victim) for path in scans]
    volumes, warnings = [scan for _, scan, _, _ in loaded], [line for _, _, said, _ in loaded for line in said]
    with Progress({}) as progress:
        expected = estimate.estimate_prediction(victim, volumes[0])
        expected = replace(expected, seconds=len(volumes) * passes * expected.seconds)
        progress.announce(words.estimate_line(expected, f"Fitting features of {victim.name}"))
        listener = progress.listener()
        how = {"layers": layers, "components": components, "passes": passes, "seed": seed}
        found = fit_features(victim, volumes, **how, say=listener.say, stop=listener.stop)
        found.write(out)
    return [*words.features_summary(found), *(f"Note: {warning}" for warning in warnings), f"Features: {out}"]


def run_compare(folders: list[Path], out: Path) -> list[Any]:
    require_new_folder(out)
    found = write_comparison(folders, out)
    return words.comparison_summary(found, folders, out)


def run_report(place: Path, full: bool, scan: str | None) -> list[Any]:
    if is_certificate(place):
        if scan is None:
            raise InputError(
                f"'{place}' is a certificate, whose page shows the scan, and it holds none; give the file that was "
                "certified with --scan."
            )
        if full:
            raise InputError(f"'{place}' is a certificate, and --full-report is for a result; leave it out.")
        return [f"Report: {write_page(place, scan)}"]
    if scan is not None:
        raise InputError(f"--scan is for the page of a certificate, and '{place}' holds none; leave --scan out.")
    read_margin(place) if is_margin(place) else read_record(place)
    require_writable(place / "report.html")
    write_report(place, full)
    beside = [f"Beside it: every changed slice, in {FULL}"] if (place / FULL).is_dir() else []
    return [f"Report: {place / 'report.html'}", *beside]


def run_verify(place: Path, trust: bool) -> tuple[list[str], list[Any]]:
    """(what differs, lines to print); `place` holds an attack's result, a search for the margin or a certificate."""
    with Progress({}, late_refusal=False) as progress:
        found = folder.examine(place, progress.listener(), trust=trust)
    return found.problems, findings(found)


def run_replay(place: Path, out: Path, trust: bool) -> list[Any]:
    require_new_folder(out)
    recorded = read_whole_record(place)
    seconds = recorded["effort"].get("seconds")
    took = f"; it took {duration(seconds)} when it was recorded" if seconds else ""
    restarts = recorded["attack"]["parameters"].get("restarts", 1)
    with Progress(recorded["victim"]["labels"], restarts) as progress:
        progress.announce(f"Replaying {recorded['attack']['title']} on {recorded['victim']['name']}{took}.")
        result = folder.replay(place, out, progress.listener(), trust=trust)
    unlike, changed = folder.unlike(place, out), folder.changed_since(recorded)
    return [*words.attack_summary(result, out), *replay_lines(unlike, changed)]
