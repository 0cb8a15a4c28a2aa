"""What an attack does to a slice of the demo's case, as a small PNG: the perturbed slice, what was added, the
segmentation before and after."""

import math
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

import prepared
from perturbox.attacks import recipes
from perturbox.job.demo import EPS, STEPS
from perturbox.report import colours
from perturbox.types import ADVERSARIAL_NOTICE

FIRST, SLICE = prepared.SLICES.start, 36
# What a recipe is shown with where the above would show nothing or take too long: eps, steps and its settings.
SMALLEST = {"eps": 40.0, "steps": 20}
SHOWN: dict[str, dict[str, Any]] = {
    "alma-prox": {**SMALLEST, "rate": 0.01},
    "cw": SMALLEST,
    "dag": {**SMALLEST, "gamma": 0.01},
    "deepfool": SMALLEST,
    "fab": SMALLEST,
    "hopskipjump": {"eps": 80.0, "steps": 60},
    "lbfgs": SMALLEST,
    "medis": {"steps": 5, "refine": 1},
    "nes": {"pairs": 5},
    "patch": {"steps": 6, "samples": 2},
    "pdpgd": SMALLEST,
    "sea": {"steps": 10},
    "spsa": {"pairs": 5},
    "square": {"steps": 50},
    "uap": {"steps": 6, "alpha": 2.5},
    "uap-natural": {"steps": 4, "alpha": 2.5, "count": 4},
}
SCALE, GAP, TITLE, FOOT = 2, 6, 20, 22
DISPLAY_HU = (-160.0, 240.0)
BLUE, WHITE, RED = np.array([5, 48, 97]), np.array([247, 247, 247]), np.array([150, 0, 31])


def shown(name: str) -> tuple[float | None, str, int, dict[str, Any]]:
    """(eps, norm, steps, settings) of a recipe's picture; no eps where it has a budget of its own."""
    recipe, settings = recipes.get(name), dict(SHOWN.get(name, {}))
    norm = settings.pop("norm", "linf" if "linf" in recipe.norms else recipe.norms[0])
    eps = settings.pop("eps", None if recipe.own else 0.05 if norm == "l0" else EPS)
    return eps, norm, settings.pop("steps", STEPS), settings


def caption(name: str) -> str:
    """In what the picture differs from the others, or nothing."""
    eps, norm, steps, settings = shown(name)
    own = recipes.get(name).own_budget()
    limit = settings.get(own["parameter"], own["value"]) if own else 0.0
    said = [f"`{own['parameter']}` {limit:g} {own['unit']}".rstrip()] if own else []
    said += [f"eps {eps:g}{'' if norm == 'l0' else ' HU'}"] if eps is not None and (eps != EPS or own) else []
    said += [f"norm {norm}"] if norm != "linf" else []
    said += [f"{steps} steps"] if steps != STEPS else []
    said += [f"{key}={value}" for key, value in settings.items() if own is None or key != own["parameter"]]
    said += [prepared.GREY[name]] if name in prepared.GREY else []
    return "; ".join(said) + "." if said else ""


def draw(name: str, path: Path) -> str:
    """Run a recipe's short attack and write its picture; says how it went."""
    eps, norm, steps, settings = shown(name)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        given = prepared.ready(name, eps, norm, steps, Path(folder), settings)
        outcome, before, goal, _ = prepared.attacked(given)
    scan, victim = given.image, given.victim
    perturbed = scan.with_data(outcome.x_adv.astype(scan.data.dtype))
    after = victim.predict(perturbed)
    dice = goal.score(after, before)
    unit = "HU" if scan.unit == "HU" else "grey values"
    window = DISPLAY_HU if scan.unit == "HU" else prepared.GREYS
    picture = compose(
        upright(perturbed.data[0]), upright(outcome.delta[0]), upright(before), upright(after), window, unit, dice,
        list(victim.structures),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)
    largest, size = np.abs(outcome.delta).max(), f"{len(picture) / 1000:.0f} kB"
    return f"mean Dice {dice:.3f}, largest change {largest:g}, {size}, {time.perf_counter() - began:.0f} s"


def upright(volume: np.ndarray) -> np.ndarray:
    """The slice that is shown of a volume in RAS, "row column": front at the top, the patient's right at the left."""
    return volume[::-1, ::-1, SLICE].T


def compose(
    values: np.ndarray,
    change: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    window: tuple[float, float],
    unit: str,
    dice: float,
    structures: list[str],
) -> bytes:
    """PNG of four panels side by side, of slices "row column" in that unit; structures: names of labels 1, 2, …"""
    limit = nice(float(np.abs(change).max()))
    grey, clean = shades(values, window), shades(values - change, window)
    panels = {
        "perturbed slice": grey,
        f"added, at most ±{limit:g} {unit}": diverging(change / limit),
        "segmentation before": labelled(clean, before),
        f"after: mean Dice {dice:.2f}": labelled(grey, after),
    }
    height, width = (n * SCALE for n in values.shape)
    sheet = Image.new("RGB", (4 * width + 3 * GAP, TITLE + height + FOOT), "black")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for place, (title, panel) in enumerate(panels.items()):
        left = place * (width + GAP)
        enlarged = np.repeat(np.repeat(panel, SCALE, 0), SCALE, 1)
        sheet.paste(Image.fromarray(enlarged), (left, TITLE))
        pen.text((left + 3, 1), title, "white", font)
    foot = TITLE + height + 3
    pen.text((3, foot), ADVERSARIAL_NOTICE, "white", font)
    bar = diverging(np.tile(np.linspace(-1, 1, width // 3), (10, 1)))
    left = 2 * width + GAP - bar.shape[1] - 42
    sheet.paste(Image.fromarray(bar), (left, foot + 4))
    pen.text((left - 4, foot), f"-{limit:g}", "white", font, anchor="ra")
    pen.text((left + bar.shape[1] + 4, foot), f"+{limit:g}", "white", font)
    left = 2 * (width + GAP) + 3
    for value, name in enumerate(structures, start=1):
        pen.text((left, foot), name, colours.structure(value), font)
        left += pen.textlength(name, font) + 10
    notice = PngImagePlugin.PngInfo()
    notice.add_text("Description", ADVERSARIAL_NOTICE)
    file = BytesIO()
    sheet.quantize(palette=_palette(len(structures)), dither=Image.Dither.NONE).save(
        file, "PNG", optimize=True, pnginfo=notice
    )
    return file.getvalue()


def _palette(structures: int) -> Image.Image:
    """Every colour that a panel uses; quantising to it changes nothing but the smooth edges of letters."""
    greys = np.repeat(np.arange(0, 256, 4)[:, None], 3, 1).astype(np.uint8)
    found = [greys, diverging(np.linspace(-1, 1, 31)[None])[0]]
    for value in range(1, structures + 1):
        found.append(tinted(greys[::8], np.array(colours.rgb(colours.structure(value)))))
    every = np.unique(
        np.concatenate([*found, [colours.rgb(colours.structure(n + 1)) for n in range(structures)]]), axis=0
    )
    palette = Image.new("P", (1, 1))
    palette.putpalette(every.astype(np.uint8).flatten().tolist())
    return palette


def nice(limit: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, … that isn't below."""
    if limit <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(limit))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= limit * (1 - 1e-6))


def shades(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Grey picture "row column 3" of values in a display window."""
    share = (values - window[0]) / (window[1] - window[0])
    return np.repeat((share.clip(0, 1) * 63).astype(np.uint8)[..., None] * 4, 3, 2)


def diverging(share: np.ndarray) -> np.ndarray:
    """Blue for -1, white for 0, red for 1."""
    steps = np.round(np.abs(share).clip(0, 1)[..., None] * 15) / 15
    return (WHITE + (np.where(share[..., None] < 0, BLUE, RED) - WHITE) * steps).astype(np.uint8)


def tinted(grey: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Grey pixels "… 3", in 8 shades, under a thin fill of a colour."""
    return (grey // 32 * 32 * 0.6 + colour * 0.4).astype(np.uint8)


def labelled(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The picture under its labels: filled thinly, outlined in full colour."""
    picture = picture.copy()
    for value in np.unique(labels[labels > 0]):
        mask, colour = labels == value, np.array(colours.rgb(colours.structure(int(value))))
        inner = np.pad(mask, 1)
        inner = mask & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        picture[inner] = tinted(picture[inner], colour)
        picture[mask & ~inner] = colour
    return picture
