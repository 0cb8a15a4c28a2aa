"""What a victim's spec says: which kind of model, and where it lies. Loads nothing heavy."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from perturbox.types import InputError

FILES = (".ts", ".pt2", ".safetensors")


@dataclass(frozen=True)
class Spec:
    """kind: "built-in", "python", "file", "nnunet" or "bundle"; name: of the object in a Python file; options: what
    follows the path of a folder, such as folds=0,1."""

    kind: str
    path: Path
    name: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def runs_code(self) -> bool:
        """Whether loading it runs code that came with it."""
        return self.kind == "python" or (self.kind == "file" and self.path.suffix == ".ts")

    def __str__(self) -> str:
        """The spec again, as `read_spec` reads it."""
        if self.kind == "python":
            return f"{self.path}:{self.name}"
        rest = "".join(f":{key}={value}" for key, value in self.options.items())
        return f"{self.kind}:{self.path}{rest}" if self.kind in ("nnunet", "bundle") else str(self.path)

    def absolute(self) -> "Spec":
        """With its whole path, for another process that works elsewhere."""
        return self if self.kind == "built-in" else replace(self, path=self.path.resolve())


def read_spec(spec: str) -> Spec:
    """Raises InputError for options that aren't understood, and for folders that hold no model."""
    if ".py:" in spec:
        file, _, name = spec.rpartition(":")
        return Spec("python", Path(file), name)
    kind, colon, rest = spec.partition(":")
    if colon and kind in ("nnunet", "bundle"):
        place, options = _options(rest)
        return Spec(kind, place, "", options)
    if spec.endswith(FILES):
        return Spec("file", Path(spec))
    place, options = _options(spec)
    if place.is_dir() and spec:
        if (place / "plans.json").is_file() or (place / "plans.pkl").is_file():
            return Spec("nnunet", place, "", options)
        if (place / "configs").is_dir():
            return Spec("bundle", place, "", options)
        raise InputError(
            f"'{spec}' is a folder without plans.json (nnU-Net) or configs/ (a MONAI bundle); name the model's."
        )
    if spec.endswith(".zip") and place.is_file():
        return Spec("bundle", place)
    return Spec("built-in", Path(spec))


def _options(text: str) -> tuple[Path, dict[str, str]]:
    """ "DIR:folds=0,1" -> (DIR, {"folds": "0,1"}); colons of a path stay."""
    parts = text.split(":")
    options: dict[str, str] = {}
    while len(parts) > 1 and "=" in parts[-1] and "/" not in parts[-1]:
        key, _, value = parts.pop().partition("=")
        if key != "folds":
            raise InputError(f"The option '{key}' of '{text}' isn't known; there is folds=0,1.")
        options[key] = value
    return Path(":".join(parts)), options
