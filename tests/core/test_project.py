"""Rules of the whole project: what is said and shipped, who may import whom, what fits in a sitting."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core"
PACKAGE = CORE / "perturbox"
APP = ROOT / "monailabel_app"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")),
)

# Names of installed packages that differ from what is imported.
OF_EXTRAS = ("jobs", "studies", "corruptions")
DISTRIBUTION = {
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "SimpleITK": "simpleitk",
    "jwt": "pyjwt",
}
WITHOUT_DEPENDENCIES = ("monailabel", "pydicom-seg")


def declared(*extras: str) -> dict[str, Requirement]:
    """Requirements by lower-case name: the package's own and those of `extras`."""
    project = PROJECT["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {requirement.name.lower(): requirement for requirement in map(Requirement, lines)}


def tracked() -> list[Path]:
    """Every file of the repository; skips where this isn't a git checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def tool(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(CORE), **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


# ---------------------------------------------------------------- what is said


def test_no_file_speaks_of_the_machine_it_was_written_on():
    forbidden = re.compile("|".join((r"(?<![\w.])/(work|root)/\w", r"/tmp/" + "bash_jobs", r"/opt/" + "wheels")))
    found = []
    for path in tracked():
        if path.suffix in (".png", ".safetensors", ".gz", ".nrrd") or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    here = ROOT / page
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", here.read_text(encoding="utf-8"))
    local = [target for target in targets if not target.startswith(("http:", "https:"))]
    assert [target for target in local if not (here.parent / target).exists()] == []


def test_every_decision_is_listed():
    listed = set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in (ROOT / "docs/adr").glob("0*.md")}


def test_the_pages_name_only_targets_the_makefile_has():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"demo", "test"} <= named <= targets
    assert set(makefile.partition(".PHONY:")[2].splitlines()[0].split()) == targets


def test_the_pages_name_only_commands_and_options_that_exist():
    from perturbox.cli.commands import command

    commands = command().commands
    leaves = {name: command for name, command in commands.items() if not hasattr(command, "commands")}
    for group in commands.keys() - leaves.keys():
        leaves |= {f"{group} {name}": command for name, command in commands[group].commands.items()}
    options = {
        name: {flag for p in command.params for flag in p.opts + p.secondary_opts} for name, command in leaves.items()
    }
    written = [
        line.partition("#")[0]
        for page in ("README.md", "docs/victims.md", "docs/results.md")
        for line in re.findall(
            r"(?:^|`)(perturbox [a-z][^`\n]*)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert {line.split()[1] for line in written} == set(commands)
    for line in written:
        name, *words = line.split()[1:]
        if name not in options:
            name, words = f"{name} {words[0]}", words[1:]
        assert {word for word in words if word.startswith("--")} - options[name] - {"--help"} == set(), line


# ---------------------------------------------------------------- how it is written


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_fits_in_a_sitting_and_says_what_its_public_parts_are(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    tree = ast.parse(source)
    public = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    # Behind the faces of the command line and the report, a name and a type may say enough.
    inner = path.parent.name in ("cli", "report") and path.name != "__init__.py"
    assert inner or [node.name for node in public if ast.get_docstring(node) is None] == []
    assert ast.get_docstring(tree) or not source.strip()


def test_ten_minutes_are_enough_to_read_what_an_attack_needs():
    """The files that CONTRIBUTING names for it have at most 400 lines together."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    part = page.partition("## Ten minutes of reading\n")[2].partition("\n## ")[0]
    files = re.findall(r"\]\((core/[^)]+\.py)\)", part)
    assert len(files) == 5 and "core/perturbox/attacks/recipes/fgsm.py" in files
    assert sum(len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files) <= 400


def test_the_source_root_is_no_package():
    assert not (CORE / "__init__.py").exists()


def test_ruff_finds_nothing():
    result = tool(sys.executable, "-m", "ruff", "check", ".")
    assert result.returncode == 0, result.stdout


def test_imports_point_one_way():
    """Every module has its place in the order, and no contract is broken."""
    result = tool(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert result.returncode == 0, result.stdout
    assert "9 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("core", ("frames",)),
        ("core/perturbox/jobs", ("server",)),
        ("monailabel_app", ("server",)),
        ("tests", ("server", "dev", "frames", "study")),
        ("core/perturbox/studies", ("study",)),
        ("core/perturbox/corruptions", ("study",)),
        ("benchmarks", ("server", "dev")),
    ],
)
def test_every_import_is_a_declared_dependency(folder, extras):
    # Tests and benchmarks use each other's helpers.
    near = ("tests", "benchmarks") if folder in ("tests", "benchmarks") else (folder,)
    own = {"perturbox", "benchmarks", "tests", "lib"}
    own |= {path.stem for name in near for path in (ROOT / name).rglob("*.py")}
    imported = set()
    for path in (ROOT / folder).rglob("*.py"):
        if path.is_relative_to(ROOT / "tests" / "slicer"):
            continue  # an environment of its own, whose imports are Slicer's
        if folder == "core" and any(path.is_relative_to(PACKAGE / extra) for extra in OF_EXTRAS):
            continue  # the queue comes with the server, studies and ordinary changes with an extra
        if path.is_relative_to(PACKAGE / "against"):
            continue  # run by the Python that holds the model's own framework
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = {DISTRIBUTION.get(name, name).replace("_", "-") for name in imported - own - sys.stdlib_module_names}
    # What pytest itself depends on comes with it; peers are installed by the tests that compare with them.
    # MONAI Label is installed without what it depends on, so it can't be an extra's.
    known = {
        *declared(*extras),
        "packaging",
        "torchattacks",
        "nnunetv2",
        "click",
        *(WITHOUT_DEPENDENCIES if extras else ()),
    }
    assert foreign - known == set()


# ---------------------------------------------------------------- what is installed


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower(): pin for name, pin in pairs}


def test_every_dependency_is_pinned_within_its_range():
    requirements, pinned = declared("server", "dev", "slicer-test", "docs", "frames", "study"), pins()
    assert set(pinned) == {*requirements, *WITHOUT_DEPENDENCIES}
    assert [name for name in requirements if not requirements[name].specifier.contains(pinned[name])] == []


def test_the_version_is_told_once():
    import perturbox

    assert perturbox.__version__ == PROJECT["project"]["version"]
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="make and sh are for Linux and macOS; Windows uses pip")
@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("exit 1", "Python 3.11 or newer is missing; get it from python.org or your system's packages"),
        ('case "$2" in *ensurepip*) exit 1;; *print*) echo 3.12;; esac', "apt-get install python3.12-venv"),
    ],
    ids=["no-python", "no-venv-module"],
)
def test_setup_says_in_one_line_what_is_missing(python, said, tmp_path):
    """In a copy of the project without .venv, on a machine whose only Python is a stand-in."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "python3").write_text(f"#!{programs / 'sh'}\n{python}\n")
    (programs / "python3").chmod(0o755)
    script = tmp_path / "scripts" / "setup"
    script.parent.mkdir()
    shutil.copy(ROOT / "scripts" / "setup", script)
    environment = {"PATH": str(programs)}
    result = subprocess.run([programs / "sh", script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("setup: ") and said in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    result = tool(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {str(path.relative_to(CORE)) for path in tracked() if path.is_relative_to(PACKAGE)}
    ours |= {f"perturbox/_app/{path.relative_to(APP)}" for path in tracked() if path.is_relative_to(APP)}
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert {Path(name).suffix for name in ours} >= {".py", ".safetensors", ".css", ".js"}
    (licence,) = (name for name in names if name.endswith("LICENSE"))
    assert ".dist-info/" in licence


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_alone_runs_the_demo(wheel, tmp_path):
    """In an environment of its own, outside the checkout, with nothing of the checkout on any path."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([scripts / "python", "-m", "pip", "install", "--quiet", *constraints, wheel], check=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    out = tmp_path / "demo"
    subprocess.run([scripts / "perturbox", "demo", "--out", out], cwd=tmp_path, env=clean, check=True)
    results = list(out.rglob("result.json"))
    assert results, sorted(out.rglob("*"))
    for result in results:
        assert (result.parent / "report.html").stat().st_size > 100_000
        again = subprocess.run([scripts / "perturbox", "verify", result.parent], cwd=tmp_path, env=clean, check=False)
        assert again.returncode == 0
