"""Writes docs/attacks.md and the package's attacks/catalogue.json from the recipes, and with --pictures what each of
them does to a slice of the demo's case:

    python -m benchmarks catalogue [--pictures [NAME …]]

A picture that is there already is drawn again only where its recipe is named. What the page says before its tables is
benchmarks/attacks_guide.md.
"""

import argparse
import inspect
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pictures
from perturbox.attacks import recipes
from perturbox.attacks.recipes import Recipe
from perturbox.cli import catalogue as listed

HERE = Path(__file__).parent
PAGE, GUIDE = HERE.parent / "docs" / "attacks.md", HERE / "attacks_guide.md"
IMAGES = PAGE.parent / "images" / "attacks"
COMMAND = "python -m benchmarks catalogue"
# What a family's table begins with.
SAID = {
    "gradient": "The signed or normalised gradient of a loss, step by step inside a ball.",
    "loss": "The same steps up other losses, or without a step size to choose.",
    "transfer": "Crafted on one model to work on others; see `--surrogate`.",
    "combined": "The worst, the first or the smallest of what several attacks find.",
    "minimal": "They stop where the goal is just reached; eps is a cap.",
    "black-box": "They ask the model for scores or labels and never look inside.",
    "frequency": "The change is made in a transform of the scan, not in its voxels.",
    "smooth": "Bends, turns and shades.",
    "patch": "Something visible, wherever it stands.",
    "universal": "Made from other scans than the one it is tried on.",
    "control": "What everything aimed must beat.",
}
# Recipes without a picture, and why.
NO_PICTURE = {"evade": "it is the attack it is added to, and what else it does depends on the detector"}


def page() -> str:
    """docs/attacks.md as it should be now."""
    families: dict[str, list[Recipe]] = {family: [] for family in recipes.FAMILIES}
    for recipe in recipes.discover().values():
        families[recipe.family].append(recipe)
    lines = [f"<!-- Written by `{COMMAND}` from the recipes and benchmarks/{GUIDE.name}; change those. -->", ""]
    lines += [GUIDE.read_text(encoding="utf-8").rstrip(), "", "## The catalogue", ""]
    lines += [
        f"{len(recipes.discover())} attacks. *Access*: white-box attacks follow the model's gradient, black-box ones "
        "only ask it. *Limited by*: the norms of eps, or a budget of its own. *Aimed*: takes any goal. "
        "*Cost* is counted in whole volumes; a forward with its exact gradient takes about as long as three forwards.",
        "",
    ]
    for family, found in families.items():
        if found:
            lines += [f"### {recipes.FAMILIES[family]}", "", SAID[family], "", *_table(found), ""]
    lines += ["## One by one", "", *_reading_pictures()]
    for found in families.values():
        for recipe in found:
            lines += [*_section(recipe), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(found: Sequence[Recipe]) -> list[str]:
    rows = ["| attack | paper | access | limited by | images | aimed | cost |", "|---|---|---|---|---|---|---|"]
    for recipe in found:
        aimed = "yes" if recipe.targeted else "no"
        cells = [
            f"[{recipe.name}](#{recipe.name})",
            recipe.paper,
            recipe.access,
            _limit(recipe),
            _images(recipe),
            aimed,
        ]
        rows.append(f"| {' | '.join(cells)} | {recipe.cost} |")
    return rows


def _limit(recipe: Recipe) -> str:
    return f"own: `{recipe.own.parameter}`" if recipe.own else ", ".join(recipe.norms)


def _images(recipe: Recipe) -> str:
    return ", ".join(f"{dims}D" for dims in recipe.dims)


def _reading_pictures() -> list[str]:
    return [
        f"Pictures show slice {pictures.SLICE + pictures.FIRST} of the demo's phantom after a short attack on "
        "`ct-organs` in 64 of its slices: the perturbed slice, what was added (blue darker, red brighter, up to the "
        "value it states), and the model's segmentation before and after. Unless the line below says otherwise, at "
        f"{pictures.EPS:g} HU and {pictures.STEPS} steps; they show what an attack does, not how strong it is.",
        "",
    ]


def _section(recipe: Recipe) -> list[str]:
    sentence, formula = said_of(recipe)
    facts = [f"{recipe.access.capitalize()}-box", _images(recipe), f"`{recipe.space}` space"]
    facts += [f"{recipe.steps} steps unless given", f"cost: {recipe.cost}"]
    lines = [f"### {recipe.name}", "", f"**{recipe.title}.** {sentence}", ""]
    if formula:
        lines += ["```", formula, "```", ""]
    lines += [f"{recipe.paper}. {'; '.join(facts)}.", ""]
    if recipe.own:
        lines += [f"A budget of its own: `{recipe.own.parameter}`, the {recipe.own.meaning}.", ""]
    if recipe.parameters:
        lines += ["| setting | meaning | unit | range | default |", "|---|---|---|---|---|"]
        lines += [_parameter(entry) for entry in recipe.parameters]
        lines += [""]
    if recipe.deviations:
        lines += ["Differs from the paper:", "", *(f"- {deviation}" for deviation in recipe.deviations), ""]
    if recipe.notes:
        lines += ["Measured:", "", *(f"- {note}" for note in recipe.notes), ""]
    return [*lines, *_picture(recipe.name)]


def _picture(name: str) -> list[str]:
    if name in NO_PICTURE:
        return [f"No picture: {NO_PICTURE[name]}."]
    caption = pictures.caption(name)
    return [
        f"![What {name} does to a slice of the demo's case](images/attacks/{name}.png)",
        *([f"\n*{caption}*"] if caption else []),
    ]


def said_of(recipe: Recipe) -> tuple[str, str]:
    """(what it does in a sentence, its formula or "") from the docstring of its file, or of the function where it
    shares the file with others."""
    module = inspect.getmodule(recipe.function)
    shared = [value for value in vars(module).values() if isinstance(getattr(value, "recipe", None), Recipe)]
    text = inspect.getdoc(recipe.function if len(shared) > 1 else module) or ""
    paragraphs = text.split("\n\n")
    formula = next((part for part in paragraphs if part.startswith("    ")), "")
    sentence = " ".join(paragraphs[0].split())
    name, colon, rest = sentence.partition(": ")
    if colon and len(name) < 40:  # the section has said it
        sentence = rest[0].upper() + rest[1:]
    return sentence, textwrap.dedent(formula)


def _parameter(entry: dict[str, Any]) -> str:
    default = "" if entry["default"] in (None, "") else f"`{_plain(entry['default'])}`"
    meaning = entry["help"].replace("|", r"\|")
    return f"| `{entry['name']}` | {meaning} | {entry['unit']} | {_range(entry)} | {default} |"


def _range(entry: dict[str, Any]) -> str:
    low, high, choices = entry["minimum"], entry["maximum"], entry["choices"]
    if choices:
        return ", ".join(f"`{_plain(choice)}`" for choice in choices)
    if entry["type"] == "bool":
        return "`true`, `false`"
    if low is None and high is None:
        return ""
    return f"≥ {low:g}" if high is None else f"≤ {high:g}" if low is None else f"{low:g} to {high:g}"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", nargs="*", metavar="NAME", help="also draw these, or those that are missing")
    options = parser.parse_args(arguments)
    PAGE.write_text(page(), encoding="utf-8")
    listed.write()
    if options.pictures is not None:
        names = [name for name in options.pictures or recipes.discover() if name not in NO_PICTURE]
        for name in names:
            path = IMAGES / f"{name}.png"
            if options.pictures or not path.exists():
                print(f"{name}: {pictures.draw(name, path)}", file=sys.stderr, flush=True)
