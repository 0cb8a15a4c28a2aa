"""Write the map of the core's modules into docs/architecture.md: what each is for, from its own first sentence.

The order is the one that import-linter checks (pyproject.toml): a module knows only what stands above it.
"""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "core" / "perturbox"
PAGE = ROOT / "docs" / "architecture.md"
MARKS = "<!-- module map: scripts/module_map.py -->", "<!-- end of the module map -->"


def purpose(path: Path) -> str:
    """The first sentence of a module's docstring, or of a package's."""
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"(?<=[.?])\s+(?=[A-Z`])|\n\n", text)[0]
    return " ".join(sentence.split()).rstrip(".")


def layers() -> dict[str, list[str]]:
    """The modules of each ordered package, the ones that know least first."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return {
        package: [name for layer in reversed(contract["layers"]) for name in re.findall(r"\w+", layer)]
        for contract in contracts
        for package in contract.get("containers", ())
    }


def module_map() -> str:
    """The map as a Markdown table, packages with their modules below them."""
    ordered = layers()
    rows = ["| | what it is for |", "|---|---|"]
    for name in ordered["perturbox"]:
        path = CORE / name
        rows.append(f"| **`{name}`** | {purpose(path)} |")
        rows += [f"| `{name}.{part}` | {purpose(path / part)} |" for part in ordered.get(f"perturbox.{name}", ())]
    return "\n".join(rows)


def written(page: str) -> str:
    """The page with today's map between its marks."""
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{module_map()}\n{MARKS[1]}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
