"""Reads a study file: YAML into its form, refused in a sentence with the line that is wrong."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from perturbox.errors import InputError, did_you_mean
from perturbox.studies.design import AttackOf, Cases, Certify, Criterion, Gate, Limit, Model, NonInferiority, Study


def read_study(path: Path) -> Study:
    """The study of a YAML file; relative paths in it start at its folder. Raises InputError with the line."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"'{path}' can't be read ({error.strerror}); name a study file.") from None
    except UnicodeDecodeError:
        raise InputError(f"'{path}' isn't text; name a study file (YAML).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it can't be parsed"
        raise InputError(f"{path}{line}: this isn't YAML ({problem}).") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}, line 1: a study is a list of `key: value`; see docs/studies.md.")
    if twice := _repeated(root):
        raise InputError(f"{path}, line {twice[1]}: the key '{twice[0]}' stands there twice; leave one out.")
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{path}, line {_line(root, first['loc'])}: {_said(first)}.") from None


def _said(error: Any) -> str:
    """What pydantic found, in our words."""
    where = ".".join(str(part) for part in error["loc"] if part != "function-after[_known(), AttackOf]")
    kind, message = error["type"], error["msg"].removeprefix("Value error, ").rstrip(".")
    if kind == "extra_forbidden":
        known = _known(error["loc"])
        hint = did_you_mean(str(error["loc"][-1]), known, f"there are {', '.join(known)}")
        return f"there is no key '{where}'; {hint}".rstrip(".")
    if kind == "missing":
        return f"'{where}' is missing"
    if kind == "value_error":
        return message[:1].lower() + message[1:] if not where else f"'{where}': {message}"
    if kind == "string_pattern_mismatch":
        message = "take letters, digits, spaces, dots, dashes and underscores, at most 80, the first a letter or digit"
    return f"'{where}' can't be {error['input']!r}: {message[:1].lower() + message[1:]}"


def _known(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that may stand beside the unknown one."""
    kinds: dict[str, type[BaseModel]] = {
        "models": Model, "cases": Cases, "attacks": AttackOf, "eps": Limit, "gate": Gate,
        "compare": NonInferiority, "criterion": Criterion, "certify": Certify,
    }  # fmt: skip
    fields = (kinds.get(str(loc[0]), Study) if len(loc) > 1 else Study).model_fields
    return [field.alias or name for name, field in fields.items()]


def _line(node: Any, loc: tuple[str | int, ...]) -> int:
    """The line of the deepest part of a location that the file has."""
    line = node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _repeated(node: Any) -> tuple[str, int] | None:
    """A key that stands twice in one mapping, which YAML forbids and its parser doesn't tell."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                return key.value, key.start_mark.line + 1
            seen.add(key.value)
            if found := _repeated(value):
                return found
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            if found := _repeated(value):
                return found
    return None
