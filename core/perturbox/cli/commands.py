"""The commands and their options. Heavy modules are imported inside, so that `--help` answers at once."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import perturbox
from perturbox.cli import catalogue
from perturbox.cli.certify import certify
from perturbox.cli.demo import demo
from perturbox.cli.detectors import detect, fit_detector
from perturbox.cli.options import (
    AsJson,
    AttackName,
    CutGradient,
    Defenses,
    Device,
    Eps,
    EpsUnit,
    Folder,
    Force,
    FullReport,
    GoalName,
    Image,
    LabelFile,
    LabelMap,
    Layers,
    MarginSteps,
    MaxEps,
    NewFolder,
    NormName,
    RoiFile,
    Seed,
    Settings,
    Steps,
    Surrogates,
    Target,
    Trust,
    Trusted,
    VictimSpec,
    given,
    names,
    pairs,
    starting,
)
from perturbox.cli.serving import serve
from perturbox.cli.study import study
from perturbox.cli.victim import victim_app
from perturbox.cli.waking import waking
from perturbox.defaults import ATTACK, UNITS
from perturbox.errors import InputError, did_you_mean

app = typer.Typer(
    help="How small a change of this scan makes a medical segmentation model wrong, and where?",
    epilog="Start with `perturbox demo`. Every perturbed file is ADVERSARIAL - NOT FOR CLINICAL USE.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(victim_app, name="victim")


def command() -> Any:
    """The click command behind it all."""
    return typer.main.get_command(app)


@app.callback(invoke_without_command=True)
def perturbox_(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings; may stand anywhere.")] = False,
) -> None:
    if version:
        print(f"perturbox {perturbox.__version__}")
        raise typer.Exit()


app.command()(demo)


@app.command()
def attack(
    context: typer.Context,
    image: Image,
    out: NewFolder,
    victim: VictimSpec = "ct-organs",
    attack: AttackName = ATTACK,
    eps: Eps = None,
    eps_unit: EpsUnit = UNITS[0],
    norm: NormName = "linf",
    steps: Steps = None,
    target: Target = None,
    goal: GoalName = "change",
    label: LabelFile = None,
    label_map: LabelMap = None,
    roi: RoiFile = None,
    surrogate: Surrogates = None,
    defense: Defenses = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    trust: Trusted = False,
    allow_cut_gradient: CutGradient = False,
    full_report: FullReport = False,
) -> None:
    """Attack a model on one scan.

    Leaves the perturbed scan in the source's own format, the segmentations before and after, every number and a report.
    """
    if label_map is not None and label is None:
        raise InputError("--label-map says how to read --label; give --label too, or leave both out.")
    target_names, chosen = names(target), pairs(settings)
    waking(f"Starting {attack} on {victim}", (image, label, roi), out)
    from perturbox.cli.running import run_attack
    from perturbox.cli.words import show
    from perturbox.job.execute import Job

    job = Job(
        image=image,
        victim=victim,
        attack=attack,
        eps=eps,
        eps_unit=eps_unit,
        norm=norm,
        steps=steps,
        goal=goal,
        target=target_names,
        label=label,
        label_map=label_map,
        roi=roi,
        settings=chosen,
        seed=seed,
        device=device,
        force=force,
        surrogate=tuple(surrogate or ()),
        trust=trust,
        allow_cut_gradient=allow_cut_gradient,
        defense=tuple(defense or ()),
    )
    show(*run_attack(job, out, given(context, "goal"), full_report))


@app.command()
def margin(
    image: Image,
    out: NewFolder,
    victim: VictimSpec = "ct-organs",
    attack: AttackName = ATTACK,
    target: Target = None,
    max_eps: MaxEps = None,
    eps_unit: EpsUnit = UNITS[0],
    steps: MarginSteps = None,
    surrogate: Surrogates = None,
    defense: Defenses = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    trust: Trusted = False,
    allow_cut_gradient: CutGradient = False,
    full_report: FullReport = False,
) -> None:
    """Find the smallest change that breaks each structure.

    A structure breaks where its Dice falls below 0.90, its volume changes by more than 10 %, its HD95 exceeds 20 mm,
    slices of it fail, or it vanishes: the verdicts of an attack. Found by attacks, so each figure is an upper bound;
    not breaking is no proof of safety.
    """
    target_names, chosen = names(target), pairs(settings)
    waking(f"Starting the search for the margin of {victim}", (image,), out)
    from perturbox.cli.running import run_margin
    from perturbox.cli.words import show
    from perturbox.job.execute import Job

    job = Job(
        image=image,
        victim=victim,
        attack=attack,
        eps_unit=eps_unit,
        steps=steps,
        target=target_names,
        settings=chosen,
        seed=seed,
        device=device,
        force=force,
        surrogate=tuple(surrogate or ()),
        trust=trust,
        allow_cut_gradient=allow_cut_gradient,
        defense=tuple(defense or ()),
    )
    show(*run_margin(job, out, max_eps, full_report))


@app.command()
def segment(
    image: Image,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new NIfTI file for the label map.")],
    victim: VictimSpec = "ct-organs",
    defense: Defenses = None,
    device: Device = "cpu",
    force: Force = False,
    trust: Trusted = False,
) -> None:
    """Segment a scan and print the volumes."""
    waking(f"Starting to segment with {victim}", (image,), out)
    from perturbox.cli.running import run_segment
    from perturbox.cli.words import show
    from perturbox.job.execute import Job

    job = Job(image, victim=victim, device=device, force=force, trust=trust, defense=tuple(defense or ()))
    show(*run_segment(job, out))


@app.command("fit-features")
def fit_features(
    scans: Annotated[list[str], typer.Argument(metavar="SCAN...", help="Clean scans; the more, the better.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new .safetensors file for what was fitted.")],
    victim: VictimSpec = "ct-organs",
    layer: Layers = None,
    components: Annotated[int, typer.Option("--components", metavar="N", help="Gaussians per mixture, at most.")] = 4,
    passes: Annotated[
        int, typer.Option("--passes", metavar="N", help="Predictions of each scan: the whole, then random boxes of it.")
    ] = 8,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Learn what a model's features look like on clean scans.

    Features of each layer are pooled over each class the model finds, and Gaussian mixtures are fitted to them. The
    file is for `--attack hfc --set features=FILE` on the same model.
    """
    waking(f"Starting to fit features of {victim}", scans, out)
    from perturbox.cli.running import run_fit
    from perturbox.cli.words import show

    show(*run_fit(scans, victim, out, tuple(layer or ()), components, passes, seed, device, force))


app.command("fit-detector")(fit_detector)
app.command()(detect)

KINDS = ("attacks", "victims", "corruptions", "defenses", "detectors")


@app.command("list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="|".join(KINDS),
            help="What to list.",
            autocompletion=lambda incomplete: starting(KINDS, incomplete),
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="One attack: all that is known of it.",
            autocompletion=lambda incomplete: starting(catalogue.names(), incomplete),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List attacks, victims, corruptions, defenses or detectors."""
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS, f"choose {', '.join(KINDS)}.")
        raise InputError(f"There is no list of '{kind}'; {hint}")
    if name is not None and kind != "attacks":
        raise InputError(f"Only attacks are told one by one; leave out '{name}'.")
    entries: list[dict[str, Any]] = []
    if kind == "attacks":
        entries = catalogue.attacks() if name is None else [catalogue.entry(name)]
    elif kind == "victims":
        from perturbox.load import load_victim
        from perturbox.zoo import BUILT_IN

        entries = [load_victim(name).describe() for name in BUILT_IN]
    elif kind == "corruptions":
        from perturbox.corruptions import CORRUPTIONS

        entries = [asdict(one) for one in CORRUPTIONS]
    elif kind == "defenses":
        from perturbox.defenses import offered

        entries = [one.describe() for one in offered()]
    else:
        from perturbox.detectors import discover
        from perturbox.detectors.shipped import victims_with

        entries = [one.describe() | {"shipped_for": victims_with(name)} for name, one in discover().items()]
    if as_json:
        print(json.dumps(entries, indent=1, allow_nan=False))
        return
    from perturbox.cli import words

    if name:
        words.show(*words.attack_card(entries[0]))
    elif kind in ("victims", "corruptions"):
        words.show((words.victims_table if kind == "victims" else words.corruptions_table)(entries))
    else:
        listed = {"attacks": words.attacks_list, "defenses": words.defenses_list, "detectors": words.detectors_list}
        words.show(*listed[kind](entries))


@app.command()
def report(
    folder: Folder,
    scan: Annotated[
        str | None,
        typer.Option("--scan", metavar="FILE", help="The scan that was certified, for its page.", show_default=False),
    ] = None,
    full_report: FullReport = False,
) -> None:
    """Write report.html again, of a result or of a search for the margin, or a certificate's page."""
    waking(f"Starting the report of {folder}", (folder, scan))
    from perturbox.cli.running import run_report
    from perturbox.cli.words import show

    show(*run_report(folder, full_report, scan))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Result folders of one scan, two to six.")],
    out: NewFolder,
) -> None:
    """Put results on one scan side by side: two models, two attacks, two limits.

    Leaves a page whose slices move together, and what differs in verdicts and in what became what, as numbers too.
    """
    waking(f"Starting to compare {len(folders)} results", folders, out)
    from perturbox.cli.running import run_compare
    from perturbox.cli.words import show

    show(*run_compare(folders, out))


@app.command()
def verify(folder: Folder, trust: Trust = False) -> None:
    """Recompute what a result folder, or a certificate's, says.

    From its saved files and, of a result, the model it names and the installed attack; says what is only recorded.
    Exit status 1 if anything doesn't hold, 2 if nothing can be recomputed.
    """
    waking(f"Starting to verify {folder}", (folder,))
    from perturbox.cli.running import run_verify
    from perturbox.cli.words import show

    problems, lines = run_verify(folder, trust)
    show(*lines)
    if problems:
        raise typer.Exit(1)


@app.command()
def replay(folder: Folder, out: NewFolder, trust: Trust = False) -> None:
    """Repeat the attack that a result folder records.

    From that folder, and the files it was given if any; says whether the result is the same.
    """
    waking(f"Starting to replay {folder}", (folder,), out)
    from perturbox.cli.running import run_replay
    from perturbox.cli.words import show

    show(*run_replay(folder, out, trust))


app.command()(certify)
app.command()(serve)
app.command()(study)
