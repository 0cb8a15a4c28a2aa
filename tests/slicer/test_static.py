"""Rules for the module's source that running it wouldn't show: what is imported when, what is never called, what the
threads may touch. The Extensions Index asks for several of them."""

import ast
import re
import symtable
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "slicer_extension" / "Perturbox"
SOURCES = sorted([*MODULE.glob("*.py"), *MODULE.glob("PerturboxLib/**/*.py"), *MODULE.glob("Testing/**/*.py")])
LEAST_PYTHON = (3, 11)  # slicer-core 5.13's here; Slicer itself has 3.12 since 5.10
FROM_SLICER = {"numpy", "vtk", "qt", "ctk", "slicer", "PerturboxLib"}
LATER = {"requests", "urllib3"}  # Slicer brings them too, but importing them takes time that a start need not spend
IN_THREADS = {"background", "client", "nrrd", "tasks"}
OF_THE_APPLICATION = {"slicer", "qt", "ctk", "vtk"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(MODULE).as_posix()


def imported(node: ast.AST) -> Iterator[str]:
    """Top-level packages that a statement imports; "." for the module's own."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield "." if node.level else (node.module or "").split(".")[0]


def at_file_scope(module: ast.Module) -> Iterator[ast.AST]:
    """Everything that runs when the file is imported: not what lies inside functions."""
    waiting: list[ast.AST] = [*module.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def called(node: ast.AST) -> str:
    """What a call calls, dotted: "slicer.util.pip_install"; empty for what has no name."""
    if not isinstance(node, ast.Call):
        return ""
    parts, callee = [], node.func
    while isinstance(callee, ast.Attribute):
        parts.append(callee.attr)
        callee = callee.value
    return ".".join(reversed([*parts, callee.id])) if isinstance(callee, ast.Name) else parts[0] if parts else ""


# ---------------------------------------------------------------- the rules: what each finds, a line each


def foreign_imports(module: ast.Module) -> list[str]:
    allowed = sys.stdlib_module_names | FROM_SLICER | {"."}
    scope = set(map(id, at_file_scope(module)))
    found = []
    for node in ast.walk(module):
        for package in imported(node):
            if package not in allowed and (id(node) in scope or package not in LATER):
                found.append(f"line {node.lineno} imports {package}")
    return found


def run_on_import(module: ast.Module) -> list[str]:
    """Statements that do something when the file is imported, beyond defining and naming things."""
    harmless = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign)
    rest = module.body[1:] if ast.get_docstring(module) else module.body
    found = [f"line {node.lineno} runs" for node in rest if not isinstance(node, harmless)]
    touched = re.compile(r"(slicer|qt|ctk|subprocess|socket)\.|open$")
    calls = (node for node in at_file_scope(module) if touched.match(called(node)))
    return found + [f"line {node.lineno} calls {called(node)}" for node in calls]


def forbidden_calls(module: ast.Module) -> list[str]:
    pattern = re.compile(
        r"(.*\.)?(pip_install|pip_uninstall|pip_ensure)$|(eval|exec|compile|print|__import__)$|os\.(system|popen)$"
        r"|importlib\.|slicer\.packaging|(urllib\.)?request\.urlopen$|SampleData\."
    )
    return [f"line {node.lineno} calls {called(node)}" for node in ast.walk(module) if pattern.match(called(node))]


def shells(module: ast.Module) -> list[str]:
    """Words of a shell are words of whoever named a file; and nobody installs anything."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.keyword) and node.arg == "shell":
            found.append(f"line {node.value.lineno} uses a shell")
        if isinstance(node, ast.Constant) and node.value in ("pip", "pip3", "conda", "torch"):
            found.append(f"line {node.lineno} names {node.value}")
    return found


def undescribed(module: ast.Module) -> list[str]:
    return [] if ast.get_docstring(module) else ["no docstring"]


def swallowed(module: ast.Module) -> list[str]:
    """`except:` and `except Exception: pass` hide what a user ought to be told."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            if node.type is None or (broad and all(isinstance(step, ast.Pass) for step in node.body)):
                found.append(f"line {node.lineno} hides every error")
    return found


def untranslated(module: ast.Module) -> list[str]:
    """Texts that a user reads and no translator can reach, because they don't go through `_()`."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            shown = node.targets[0].attr in ("text", "title", "toolTip", "placeholderText", "specialValueText")
            texts = [node.value] if shown else []
        else:
            starred = isinstance(node, ast.Call) and any(isinstance(each, ast.Starred) for each in node.args)
            told = called(node) == "Trouble" and not starred
            texts = node.args[1:3] if told else node.args if ASKS.match(called(node)) else []
        found += [f"line {text.lineno} says {said}" for text in texts for said in plain_words(text)]
    return found


ASKS = re.compile(r"slicer\.util\.(confirm|info|error|warning)\w+$")


def plain_words(node: ast.AST) -> list[str]:
    """Pieces with words in them of an expression, but for what is translated, looked up or compared."""
    if isinstance(node, ast.Call) and called(node) not in ("str", "join"):
        return []
    if isinstance(node, ast.Subscript | ast.Compare):
        return []
    if isinstance(node, ast.Constant):
        wordy = isinstance(node.value, str) and re.search(r"[a-z]{3}", node.value)
        return [node.value] if wordy else []
    return [said for child in ast.iter_child_nodes(node) for said in plain_words(child)]


RULES: dict[Callable[[ast.Module], list[str]], list[str]] = {
    # rule: code that it must find
    foreign_imports: ["import torch", "from scipy import ndimage", "import requests", "def f():\n    import monai"],
    run_on_import: ["from a import b\nb()", "if True:\n    x = 1", "import slicer\nx = slicer.util.loadVolume('a')"],
    forbidden_calls: ["def f():\n    slicer.util.pip_install('a')", "x = eval('1')", "print(1)", "os.system('a')"],
    shells: ["subprocess.run('a', shell=True)", "subprocess.run([python, '-m', 'pip', 'install', 'a'])"],
    undescribed: ["x = 1"],
    untranslated: [
        "self.ui.a.text = 'Stop'",
        "self.ui.a.text = f'Stop {x}'",
        "raise Trouble('code', 'It broke.', _('Mend it.'))",
        "slicer.util.confirmOkCancelDisplay(_('Sure?'), 'Really')",
    ],
    swallowed: ["try:\n    f()\nexcept:\n    g()", "try:\n    f()\nexcept Exception:\n    pass"],
}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule, path):
    assert rule(tree(path)) == []


@pytest.mark.parametrize(("rule", "code"), [(rule, code) for rule, codes in RULES.items() for code in codes])
def test_the_rule_finds_what_it_is_for(rule, code):
    assert rule(ast.parse(code)) != []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_oldest_python_reads_it(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=LEAST_PYTHON)


def test_the_readme_says_which_slicer_that_is():
    text = (MODULE.parent / "README.md").read_text(encoding="utf-8")
    assert f"Python {LEAST_PYTHON[0]}.{LEAST_PYTHON[1]}" in text and "3D Slicer 5.10 or newer" in text


# ---------------------------------------------------------------- threads


def is_translation(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "slicer.i18n"


def own_imports(path: Path) -> set[str]:
    """Modules of PerturboxLib that a module of it imports, anywhere in it."""
    names = {file.stem for file in MODULE.glob("PerturboxLib/*.py")}
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("PerturboxLib")):
            tail = (node.module or "").removeprefix("PerturboxLib").strip(".")
            found |= {tail} if tail else {alias.name for alias in node.names}
    return found & names


def reached(start: set[str]) -> set[str]:
    """These modules and all that they import, directly or not."""
    found, waiting = set(), set(start)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= own_imports(MODULE / "PerturboxLib" / f"{name}.py") - found
    return found


def test_threads_cant_reach_the_scene():
    """What runs in a thread, with everything it imports, knows neither scene nor widgets. `geometry` reads a volume
    node that it is given, so it imports vtk, but only where it is given one; translating needs no scene."""
    used = reached(IN_THREADS)
    assert used >= IN_THREADS | {"geometry", "trouble"}
    for name in sorted(used):
        module = tree(MODULE / "PerturboxLib" / f"{name}.py")
        module.body = [node for node in module.body if not is_translation(node)]
        wanted = {package for node in ast.walk(module) for package in imported(node)} & OF_THE_APPLICATION
        assert wanted <= ({"vtk"} if name == "geometry" else set()), name
        assert not {package for node in at_file_scope(module) for package in imported(node)} & OF_THE_APPLICATION, name


def test_only_the_named_modules_start_threads_and_processes():
    """Whoever else did would have to be looked at for what its threads touch."""
    users = {"threading": set(), "subprocess": set(), "multiprocessing": set(), "asyncio": set()}
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            for package in set(imported(node)) & set(users):
                users[package].add(path.stem)
    assert users["threading"] <= {"background", "localserver", "wire"}
    assert users["subprocess"] == {"localserver"}
    assert not users["multiprocessing"] and not users["asyncio"]
    assert not [path.name for path in SOURCES if "QThread" in path.read_text(encoding="utf-8")]


def scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from scopes(child)


def test_nothing_takes_the_place_of_what_translates():
    """A parameter or a variable called _ hides it, so that the sentence fails when it is to be said."""
    hidden = []
    for path in SOURCES:
        for scope in scopes(symtable.symtable(path.read_text(encoding="utf-8"), str(path), "exec")):
            if scope.get_type() != "function" or "_" not in scope.get_identifiers():
                continue
            name = scope.lookup("_")
            if name.is_referenced() and not name.is_global():
                hidden.append(f"{name_of(path)}: {scope.get_name()}")
    assert hidden == []


def test_every_file_can_be_read_in_a_sitting():
    assert {name_of(path): lines for path in SOURCES if (lines := path.read_text().count("\n")) >= 400} == {}
