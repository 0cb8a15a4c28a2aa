"""The rules by which 3D Slicer's Extensions Index accepts an extension, as of August 2026: its JSON schema, the checks
it runs on a proposed entry, its reviewers' list. What only a public repository can show stands in
docs/slicer-extension.md."""

import ast
import json
import re
import struct
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "slicer_extension" / "Perturbox.json"
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
README = ROOT / "slicer_extension" / "README.md"
REPOSITORY = "https://github.com/perturbox/perturbox"
RAW = "https://raw.githubusercontent.com/perturbox/perturbox/main/"
LICENCES = ("LICENSE", "LICENCE", "License.txt", "license.txt", "LICENSE.txt", "COPYING", "COPYING.txt")
MOST_MB = 100
PNG = b"\x89PNG\r\n\x1a\n"

Entry = dict[str, object]


def entry() -> Entry:
    return json.loads(ENTRY.read_text(encoding="utf-8"))


def literal(name: str) -> str:
    """EXTENSION_… of the root CMakeLists.txt, found as the Index finds it: one line, one text in quotes."""
    return re.findall(rf'set\s*\(EXTENSION_{name}\s*"([^"]+)"', CMAKE)[0]


def repository_file(url: str) -> Path:
    """Where the file lies here that a raw link into the main branch names."""
    assert url.startswith(RAW), url
    return ROOT / url.removeprefix(RAW)


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


# ---------------------------------------------------------------- the schema, version 1.0.1, by hand

TYPES: dict[str, type | tuple[type, ...]] = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}
REQUIRED = ("$schema", "category", "scm_url")
CATEGORIES = ("Segmentation", "Analysis", "Quantification", "Informatics", "Developer Tools", "Utilities")  # some of 60


def schema_errors(given: Entry) -> list[str]:
    errors = [f"{key} is missing" for key in REQUIRED if key not in given]
    errors += [f"{key} is unknown" for key in given if key not in TYPES]
    for key, kind in TYPES.items():
        value = given.get(key)
        if key in given and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            errors.append(f"{key} has the wrong type")
    tier, kind = given.get("tier", 1), given.get("scm_type", "git")
    if isinstance(tier, int) and not 1 <= tier <= 5:
        errors.append("tier is not 1 to 5")
    if kind not in ("git", "local"):
        errors.append("scm_type is neither git nor local")
    dependencies = given.get("build_dependencies", [])
    if isinstance(dependencies, list) and not all(isinstance(name, str) for name in dependencies):
        errors.append("build_dependencies holds more than names")
    return errors


def category_errors(given: Entry) -> list[str]:
    return [] if given.get("category") in CATEGORIES else ["the category is none of the Index's"]


def address_errors(given: Entry) -> list[str]:
    """scheme://host/path, by git or https."""
    url = urlsplit(str(given.get("scm_url", "")))
    return [] if url.scheme in ("git", "https") and url.netloc and url.path.strip("/") else ["scm_url is no address"]


def tier_errors(given: Entry) -> list[str]:
    """1 experimental, 3 and 5 by the maintainers' decision, 2 and 4 reserved. Ours was built on no platform yet."""
    return [] if given.get("tier") == 1 else ["only tier 1 can be claimed"]


def dependency_errors(given: Entry) -> list[str]:
    """The same in the entry as in CMakeLists.txt."""
    said = literal("DEPENDS")
    there = [] if said == "NA" else re.split(r"[ ;]", said)
    return [] if given.get("build_dependencies") == there else ["build_dependencies differ from EXTENSION_DEPENDS"]


CHECKS: dict[Callable[[Entry], list[str]], list[Entry]] = {
    # check: changes of our entry that it must refuse
    schema_errors: [
        *({"scm": "git"}, {"scm_type": "svn"}, {"category": None}, {"enabled": 1}),
        *({"tier": "1"}, {"tier": True}, {"tier": 6}),
        *({"build_dependencies": "PyTorch"}, {"build_dependencies": [1]}),
    ],
    category_errors: [{"category": "Robustness"}],
    address_errors: [{"scm_url": "github.com/a/b"}, {"scm_url": "git@github.com:a/b.git"}, {"scm_url": "http://a/b"}],
    tier_errors: [{"tier": 3}, {"tier": 2}],
    dependency_errors: [{"build_dependencies": ["PyTorch"]}],
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_entry(check):
    assert check(entry()) == []


@pytest.mark.parametrize(("check", "change"), [(check, change) for check in CHECKS for change in CHECKS[check]])
def test_a_wrong_entry_is_refused(check, change):
    assert check(entry() | change) != []


@pytest.mark.parametrize("key", REQUIRED)
def test_an_entry_needs(key):
    given = entry()
    del given[key]
    assert schema_errors(given) == [f"{key} is missing"]


def test_the_schema_is_one_the_index_has():
    known = (
        "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.1.json"
    )
    assert str(entry()["$schema"]).split("#")[0] == known


def test_the_entry_is_formatted_as_the_index_formats():
    """LF only, no trailing space, two spaces, a newline at the end; keys as in the other entries."""
    raw = ENTRY.read_bytes()
    assert b"\r" not in raw and raw.endswith(b"}\n")
    assert raw.decode() == json.dumps(entry(), indent=2, sort_keys=True) + "\n"


# ---------------------------------------------------------------- names and addresses


def test_the_name_is_the_same_everywhere_and_not_slicers():
    (project,) = re.findall(r"project\s*\(\s*([^\s)]+)", CMAKE, re.IGNORECASE)
    assert project == ENTRY.stem == "Perturbox"
    assert not project.lower().startswith("slicer")


def test_one_address_throughout():
    """The repository is used without Slicer too, so its name needn't start with Slicer; reviewers grant that."""
    assert entry()["scm_url"] == f"{REPOSITORY}.git"
    assert entry()["scm_revision"] == "main"
    assert literal("HOMEPAGE").startswith(REPOSITORY)
    for name in ("ICONURL", "SCREENSHOTURLS"):
        assert all(url.startswith(RAW) for url in literal(name).split())


@pytest.mark.parametrize("name", ["HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"])
def test_the_index_finds_every_text_in_cmake(name):
    """Read by pattern, not by CMake: a variable in it would stay a variable."""
    assert "$" not in literal(name) and "\n" not in literal(name)
    assert len(re.findall(rf"EXTENSION_{name}\b", CMAKE)) == 1


def test_the_homepage_is_the_readme_of_the_extension():
    place = literal("HOMEPAGE").removeprefix(f"{REPOSITORY}/tree/main/")
    assert (ROOT / place / "README.md") == README and README.is_file()


def test_cmake_asks_for_what_slicers_template_asks_for():
    assert re.search(r"^cmake_minimum_required\(VERSION 3\.28\.0\.\.\.3\.28\.0 FATAL_ERROR\)$", CMAKE, re.MULTILINE)
    steps = ["project(", "find_package(Slicer REQUIRED)", "include(${Slicer_USE_FILE})", "add_subdirectory("]
    steps += ["include(${Slicer_EXTENSION_GENERATE_CONFIG})", "include(${Slicer_EXTENSION_CPACK})"]
    places = [CMAKE.index(step) for step in steps]
    assert places == sorted(places)


def test_the_description_is_short_and_complete():
    """One or two sentences for those who aren't experts, and what else a user must know before installing."""
    text = literal("DESCRIPTION")
    assert 80 <= len(text) <= 300
    for word in ("CT", "segmentation", "server", "Research use only"):
        assert word in text


# ---------------------------------------------------------------- pictures


def picture_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(PNG), f"{path.name} is no PNG"
    return struct.unpack(">II", head[16:24])


def test_the_icon_is_a_png_of_128_pixels():
    assert picture_size(repository_file(literal("ICONURL"))) == (128, 128)


def test_there_are_screenshots_and_they_are_in_the_repository():
    paths = [repository_file(url) for url in literal("SCREENSHOTURLS").split()]
    assert paths
    for path in paths:
        assert min(picture_size(path)) >= 400, path.name


def test_pictures_and_pages_that_the_readme_names_are_there():
    text = README.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        assert (README.parent / link).resolve().exists(), link


# ---------------------------------------------------------------- what reviewers ask for


def test_the_homepage_tells_what_reviewers_look_for():
    """Name, a sentence or two, a picture, every module, tutorial, publication or how to cite, licence, patents."""
    text = README.read_text(encoding="utf-8")
    title, rest = text.split("\n", 1)
    assert title.startswith("# ") and "Perturbox" in title
    first = rest.strip().split("\n\n")[0]
    assert 60 <= len(first) <= 300 and first.endswith(".")
    assert re.search(r"!\[[^\]]{20,}\]\([^)]+\.png\)", text), "no picture with a description"
    assert re.search(r"^- \*\*Perturbox\*\*: \w", section(text, "Modules"), re.MULTILINE)
    assert "version" in section(text, "How to cite")
    assert "Apache-2.0" in section(text, "Licence") and "patents" in section(text, "Licence")
    assert "Research use only" in text


def test_the_tutorial_is_step_by_step_and_brings_its_data():
    steps = section(README.read_text(encoding="utf-8"), "Tutorial")
    assert [int(number) for number in re.findall(r"^(\d+)\. ", steps, re.MULTILINE)] == list(range(1, 8))
    assert "Open example" in steps
    for name in ("source", "perturbed"):
        assert (ROOT / "slicer_extension" / "Perturbox" / "Resources" / "Example" / f"{name}.nrrd").is_file()


def test_privacy_is_told_and_sending_is_asked_for():
    """Explicit consent: the sentence the README promises is the one the module shows before anything leaves."""
    text = section(README.read_text(encoding="utf-8"), "Privacy")
    for promise in ("no patient", "no DICOM header", "telemetry", "asks", "for a week", "never a token"):
        assert promise in text
    panel = (ROOT / "slicer_extension" / "Perturbox" / "PerturboxLib" / "serverpanel.py").read_text(encoding="utf-8")
    assert "no patient name" in panel and "Send?" in panel


def test_files_go_under_names_that_tell_nothing():
    """What is uploaded is called scan (of several numbered), label and roi, without fields that name a patient."""
    source = (ROOT / "slicer_extension" / "Perturbox" / "PerturboxLib" / "sending.py").read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    encoded = [call for call in calls if ast.unparse(call.func) == "nrrd.encode"]
    assert len(encoded) == 4
    assert all(len(call.args) == 2 and not call.keywords for call in encoded)
    names = set(re.findall(r'\("([^"]+)", nrrd\.encode', source))
    assert names == {"scan.nrrd", "label.nrrd", "roi.nrrd"}
    assert re.findall(r'\("([^"]+)", content\)', source.replace('(f"', '("')) == ["scan{n}.nrrd"]


def test_the_licence_lies_at_the_root_and_is_the_packages():
    (found,) = (ROOT / name for name in LICENCES if (ROOT / name).is_file())
    assert found.read_text(encoding="utf-8").split("\n")[1].strip() == "Apache License"
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license"] == "Apache-2.0"


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if done.returncode:
        pytest.skip("no git repository: what it holds can't be told")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_the_repository_is_small_enough():
    assert sum(path.stat().st_size for path in tracked()) < MOST_MB * 2**20 / 4


def test_only_python_so_that_the_index_packs_it():
    """Its check packs extensions without C++ sources on every platform, and skips the others."""
    assert [path for path in tracked() if path.suffix in (".cxx", ".h", ".cpp", ".so", ".dll", ".exe")] == []
