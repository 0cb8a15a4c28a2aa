"""What the attacks say of themselves, without importing them: PyTorch alone takes seconds.

attacks/catalogue.json holds it; `python -m benchmarks catalogue` (`make attacks`) writes it from the recipes, and a
test holds both equal. If the recipes or the losses aren't those that it was written from, the recipes are asked.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import perturbox

PACKAGE = Path(perturbox.__file__).parent
FILE = PACKAGE / "attacks" / "catalogue.json"


@cache
def catalogue() -> Mapping[str, Any]:
    """{"sources": their SHA-256, "families": their titles by name, "attacks": what each attack says, as listed}"""
    try:
        known = json.loads(FILE.read_text(encoding="utf-8"))
        if known["sources"] == sources():
            return known
    except (OSError, ValueError, KeyError):
        pass
    return asked()


def asked() -> dict[str, Any]:
    """The same, from the recipes themselves."""
    from perturbox.attacks import recipes

    attacks = [recipe.describe() for recipe in recipes.offered()]
    return {"sources": sources(), "families": recipes.FAMILIES, "attacks": attacks}


def write() -> None:
    """Write the file again, from the recipes as they are."""
    FILE.write_text(json.dumps(asked(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def sources() -> str:
    """SHA-256 of what the catalogue follows from: the recipes, the settings they share, and the losses."""
    folder = PACKAGE / "attacks"
    files = [*sorted((folder / "recipes").glob("*.py")), folder / "settings.py", folder / "objectives.py"]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\n{path.read_text(encoding='utf-8')}\n".encode())
    return digest.hexdigest()


def attacks() -> list[dict[str, Any]]:
    """What each attack says, as lists show them."""
    return catalogue()["attacks"]


def names() -> list[str]:
    """The attacks' names, in that order."""
    return [one["name"] for one in attacks()]


def victims() -> list[str]:
    """The built-in victims' names."""
    return sorted(path.stem for path in (PACKAGE / "zoo" / "weights").glob("*.safetensors"))


def entry(name: str) -> dict[str, Any]:
    """What the attack of that name says; raises InputError that suggests a near one."""
    found = next((one for one in attacks() if one["name"] == name), None)
    if found is None:
        from perturbox.attacks import recipes

        return recipes.get(name).describe()  # which refuses
    return found


def families() -> dict[str, str]:
    """What each family does, in the order in which lists show them."""
    return catalogue()["families"]
