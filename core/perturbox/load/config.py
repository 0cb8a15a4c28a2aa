"""A MONAI bundle's configuration, read as data: references are followed, a closed list of expressions is understood,
nothing is executed.

MONAI's own ConfigParser runs every `$import` of a file and any importable `_target_` (GHSA-873f-pvrv-4x83).
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturbox.load.checkpoint import read_json
from perturbox.types import InputError

REFERENCE = re.compile(r"@([\w:#]+)")


class Config:
    """The entries of a configuration file. `get("inferer")` is that entry with all it refers to, as plain data; of a
    `_target_` in `skipped` nothing but its name is looked at."""

    skipped: frozenset[str] = frozenset()

    def __init__(self, path: Path, trust: bool = False):
        self.path, self.trust = path, trust
        if path.suffix == ".json":
            self.data = read_json(path)
        else:
            import yaml

            try:
                self.data = yaml.safe_load(path.read_text(encoding="utf-8"))
            except yaml.YAMLError as error:
                raise InputError(f"'{path}' can't be read ({str(error).splitlines()[0]}); correct it.") from None
        if not isinstance(self.data, dict):
            raise InputError(f"'{path}' holds no configuration; it must be a mapping.")

    def has(self, key: str) -> bool:
        return key in self.data

    def get(self, key: str) -> Any:
        """Raises InputError where the entry is missing, or needs an expression beyond the list."""
        return self._resolved(self._raw(key), key, (key,))

    def _raw(self, key: str) -> Any:
        found: Any = self.data
        for part in re.split(r"::|#", key):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise InputError(f"'{self.path.name}' has no entry '{key}'; complete the bundle.") from None
        return found

    def _resolved(self, value: Any, key: str, seen: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            if str(value.get("_target_", "")).rpartition(".")[2].removesuffix("d") in self.skipped:
                return {"_target_": value["_target_"]}
            return {name: self._resolved(part, f"{key}::{name}", seen) for name, part in value.items()}
        if isinstance(value, list):
            return [self._resolved(part, f"{key}::{i}", seen) for i, part in enumerate(value)]
        if isinstance(value, str) and REFERENCE.fullmatch(value):
            return self._followed(value[1:], seen)
        if isinstance(value, str) and value.startswith("$"):
            return self._expression(value, key, seen)
        return value

    def _followed(self, key: str, seen: tuple[str, ...]) -> Any:
        if key in seen:
            raise InputError(f"The entry '{key}' of '{self.path.name}' refers to itself; correct it.")
        return self._resolved(self._raw(key), key, (*seen, key))

    def _expression(self, text: str, key: str, seen: tuple[str, ...]) -> Any:
        names: dict[str, str] = {}

        def name(match: re.Match[str]) -> str:
            return names.setdefault(match[1], f"ref_{len(names)}")

        advice = "add --trust if you trust the bundle."
        if self.trust:
            advice = "only the network's may; write the model as FILE.ts or FILE.safetensors with a sidecar."
        refused = InputError(
            f"The entry '{key}' of '{self.path.name}' is the expression {text!r}, which would run code; {advice}"
        )
        try:
            tree = ast.parse(REFERENCE.sub(name, text[1:].strip()), mode="eval").body
        except SyntaxError:
            raise refused from None
        back = {short: reference for reference, short in names.items()}
        reading = _Reading(lambda short: self._followed(back[short], seen) if short in back else None, set(back))
        try:
            return reading.value(tree)
        except (_Refused, TypeError, ValueError, IndexError, KeyError, OverflowError):
            raise refused from None


class _Refused(Exception):
    """An expression outside the list."""


class _Reading:
    """The closed list: constants, lists, references, + of texts and numbers, len, comparison, "A if flag else B",
    torch.float32, torch.device(…), network.to(device), and three lambdas: "x > number", "x[1:]", and a chain of
    "torch.where(x[[channel]] > 0, value, …)"."""

    def __init__(self, follow: Any, names: set[str]):
        self.follow, self.names = follow, names

    def value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.follow(node.id)
        if isinstance(node, ast.List | ast.Tuple):
            return [self.value(part) for part in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            inner = self.value(node.operand)
            return -inner if isinstance(node.op, ast.USub) else not inner
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.value(node.left) + self.value(node.right)
        if isinstance(node, ast.IfExp):
            return self.value(node.body) if self.value(node.test) else self.value(node.orelse)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            equal = self.value(node.left) == self.value(node.comparators[0])
            return equal if isinstance(node.ops[0], ast.Eq) else not equal
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("torch", "numpy"):
            return f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Lambda):
            return self._lambda(node.body)
        if isinstance(node, ast.Call) and not node.keywords:
            return self._call(node)
        raise _Refused

    def _call(self, node: ast.Call) -> Any:
        called = node.func
        if isinstance(called, ast.Name) and called.id == "len" and len(node.args) == 1:
            return len(self.value(node.args[0]))
        if isinstance(called, ast.Attribute):
            of_torch = isinstance(called.value, ast.Name) and called.value.id == "torch"
            if of_torch and called.attr == "device":
                return "torch.device"
            if called.attr == "to" and not of_torch:
                return self.value(called.value)
        raise _Refused

    def _lambda(self, body: ast.expr) -> dict[str, Any]:
        """{"above": number}, {"from_channel": first} or {"first_of": [[channel, value], …]}."""
        if isinstance(body, ast.Compare) and isinstance(body.left, ast.Name):
            return {"above": self._above(body)}
        if isinstance(body, ast.Subscript) and isinstance(body.slice, ast.Slice) and body.slice.lower is not None:
            if body.slice.upper is None and body.slice.step is None:
                return {"from_channel": self.value(body.slice.lower)}
            raise _Refused
        return {"first_of": self._cases(body)}

    def _above(self, node: ast.Compare) -> float:
        number = self.value(node.comparators[0])
        if not isinstance(node.ops[0], ast.Gt) or not isinstance(number, int | float):
            raise _Refused
        return float(number)

    def _cases(self, node: ast.expr) -> list[list[int]]:
        if isinstance(node, ast.Constant) and node.value == 0:
            return []
        if not isinstance(node, ast.Call) or len(node.args) != 3 or node.keywords:
            raise _Refused
        test, chosen, rest = node.args
        if ast.unparse(node.func) != "torch.where" or not isinstance(test, ast.Compare) or self._above(test) != 0:
            raise _Refused
        if not isinstance(test.left, ast.Subscript) or not isinstance(test.left.slice, ast.List):
            raise _Refused
        (channel,) = self.value(test.left.slice)
        return [[int(channel), int(self.value(chosen))], *self._cases(rest)]
