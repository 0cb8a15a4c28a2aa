"""What a command costs before its work begins, in a process of its own, and when it shows a sign of life."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from perturbox.attacks import recipes
from perturbox.cli import catalogue
from perturbox.cli.waking import waking

CORE = Path(__file__).resolve().parents[2] / "core"
HEAVY = {"torch", "monai", "SimpleITK", "nibabel", "scipy", "numpy"}
NEW_RECIPE = '''"""A recipe that a test adds."""

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import recipe
from perturbox.attacks.solvers.ascent import Ascent, chain, sign
from perturbox.attacks.spaces.additive import Additive


@recipe(title="Newest", paper="None", norms=("linf",), cost="steps")
def newest(eps: float, norm: Norm, steps: int) -> Attack:
    """One sentence."""
    return Climb(ascend(LOSSES["ce"]), Additive(), Ascent(chain(sign())), eps, norm, steps)
'''


def environment(core: Path = CORE, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(core), "PYTHONIOENCODING": "utf-8", **more}


def perturbox(*arguments: object, core: Path = CORE, **more: str) -> str:
    """stdout of a command in a process of its own."""
    command = [sys.executable, "-m", "perturbox", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment(core, **more))
    assert done.returncode == 0, done.stderr
    return done.stdout


def cpu_seconds(*arguments: str) -> float:
    """The least of three runs: others on this machine can only make a run longer."""

    def once() -> float:
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment())
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(once() for _ in range(3))


@pytest.mark.parametrize(
    ("limit", "arguments"),
    [
        (0.2, ["-c", "import perturbox"]),
        (0.7, ["-m", "perturbox", "--version"]),
        (0.7, ["-m", "perturbox", "list", "attacks", "--json"]),
    ],
    ids=["import", "version", "list"],
)
def test_what_needs_no_model_costs_little(limit, arguments):
    assert cpu_seconds(*arguments) < limit


@pytest.mark.parametrize(
    "line", ["--version", "--help", "attack --help", "list attacks", "list attacks pgd", "list attacks --json"]
)
def test_no_heavy_module_is_imported_to_tell_of_commands_and_attacks(line):
    code = (
        "import sys; from perturbox.cli import main\n"
        f"assert main({line.split()!r}) == 0\n"
        f"assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- the catalogue


def test_the_catalogue_is_what_the_recipes_say_now():
    said = json.loads(json.dumps(catalogue.asked()))
    assert json.loads(catalogue.FILE.read_text(encoding="utf-8")) == said, "run `python -m benchmarks catalogue`"
    assert [one["name"] for one in said["attacks"]] == [recipe.name for recipe in recipes.offered()]
    assert json.loads(perturbox("list", "attacks", "--json")) == said["attacks"]


def test_a_recipe_that_the_catalogue_does_not_know_is_listed_all_the_same(tmp_path):
    core = tmp_path / "core"
    shutil.copytree(CORE, core, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    (core / "perturbox" / "attacks" / "recipes" / "newest.py").write_text(NEW_RECIPE, encoding="utf-8")
    listed = {one["name"]: one for one in json.loads(perturbox("list", "attacks", "--json", core=core))}
    assert listed.keys() - {recipe.name for recipe in recipes.offered()} == {"newest"}
    assert listed["newest"]["title"] == "Newest"


# ---------------------------------------------------------------- a sign of life


def first_line(arguments: list[str], folder: Path, said: str) -> float:
    """CPU seconds until the first line, which must be `said`; the process is ended then."""
    before = os.times()
    process = subprocess.Popen(
        [sys.executable, "-m", "perturbox", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(PERTURBOX_HOME=str(folder / "home")),
    )
    line = process.stdout.readline()
    process.kill()
    process.communicate()
    after = os.times()
    assert line == said + "\n"
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize(
    ("line", "said"),
    {
        "attack {scan} --out {new}": "Starting annealed on ct-organs …",
        "margin {scan} --out {new}": "Starting the search for the margin of ct-organs …",
        "segment {scan} --out {new}.nii.gz": "Starting to segment with ct-organs …",
        "verify {folder}": "Starting to verify {folder} …",
        "replay {folder} --out {new}": "Starting to replay {folder} …",
        "serve --port 48917": "Starting the server at 127.0.0.1:48917 …",
    }.items(),
    ids=lambda text: text.split()[0],
)
def test_the_first_line_comes_before_the_heavy_imports(line, said, tmp_path):
    names = {"scan": tiny.write_scan(tmp_path / "ct.nii.gz"), "folder": tmp_path, "new": tmp_path / "R"}
    arguments = line.format(**names).split()
    assert min(first_line(arguments, tmp_path, said.format(**names)) for _ in range(3)) < 1


def test_what_is_about_to_be_refused_stays_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "torch")
    (tmp_path / "R").mkdir()
    waking("A", (tmp_path, None), tmp_path / "R")
    waking("B", (tmp_path / "nothing",))
    (tmp_path / "R" / "file").touch()
    waking("C", (), tmp_path / "R")
    assert capsys.readouterr() == ("A …\n", ""), "stderr is no terminal here"
    monkeypatch.setitem(sys.modules, "torch", object())
    waking("D")
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- completion in a shell


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_options_and_names(shell):
    assert "perturbox" in perturbox(_PERTURBOX_COMPLETE=f"source_{shell}")

    def completed(line: str) -> str:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        fish = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        return perturbox(_PERTURBOX_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_ARGS=line, **words, **fish)

    assert "attack" in completed("perturbox att") and "verify" not in completed("perturbox att")
    assert "--target" in completed("perturbox attack --tar")
    assert "pgd" in completed("perturbox attack --attack pg") and "fgsm" not in completed(
        "perturbox attack --attack pg"
    )
    assert "ct-organs-2d" in completed("perturbox segment --victim ct-")
    assert "victims" in completed("perturbox list vic")
