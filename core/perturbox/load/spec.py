"""What a victim's spec says: which kind of model, and where it lies. Loads nothing heavy."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from perturbox.types import InputError

# Kinds that are folders, with the options each takes.
FOLDERS = {"nnunet": ("folds",), "totalsegmentator": ("folds", "mm", "step"), "bundle": ()}
FILES = (".ts", ".pt2", ".safetensors")


@dataclass(frozen=True)
class Spec:
    """kind: "built-in", "python", "file", "nnunet", "totalsegmentator", "bundle" or "ensemble"; name: of the object in
    a Python file; options: what follows the path of a folder, such as folds=0,1; members: of an ensemble."""

    kind: str
    path: Path
    name: str = ""
    options: dict[str, str] = field(default_factory=dict)
    members: "tuple[Spec, ...]" = ()

    @property
    def runs_code(self) -> bool:
        """Whether loading it runs code that came with it."""
        if self.members:
            return any(member.runs_code for member in self.members)
        return self.kind == "python" or (self.kind == "file" and self.path.suffix == ".ts")

    def __str__(self) -> str:
        """The spec again, as `read_spec` reads it."""
        if self.members:
            return "+".join(map(str, self.members))
        if self.kind == "python":
            return f"{self.path}:{self.name}"
        rest = "".join(f":{key}={value}" for key, value in self.options.items())
        return f"{self.kind}:{self.path}{rest}" if self.kind in FOLDERS else str(self.path)

    def absolute(self) -> "Spec":
        """With its whole path, for another process that works elsewhere."""
        if self.members:
            return replace(self, members=tuple(member.absolute() for member in self.members))
        return self if self.kind == "built-in" else replace(self, path=self.path.resolve())


def read_spec(spec: str) -> Spec:
    """The spec of one model, or of "A+B" (a name that is there as it stands is one, whatever it is made of). Raises
    InputError for options that aren't understood, and for folders that hold no model."""
    parts = spec.split("+")
    if len(parts) > 1 and all(parts) and not _is_there(spec):
        return Spec("ensemble", Path(spec), members=tuple(_read_one(part) for part in parts))
    return _read_one(spec)


def _is_there(spec: str) -> bool:
    """Whether it names one file or folder as it stands."""
    try:
        return _read_one(spec).path.exists()
    except InputError:
        return False


def _read_one(spec: str) -> Spec:
    if ".py:" in spec:
        file, _, name = spec.rpartition(":")
        return Spec("python", Path(file), name)
    kind, colon, rest = spec.partition(":")
    if colon and kind in FOLDERS:
        place, options = _options(rest, FOLDERS[kind])
        return Spec(kind, place, "", options)
    if spec.endswith(FILES):
        return Spec("file", Path(spec))
    place, options = _options(spec, FOLDERS["nnunet"])
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


def _options(text: str, known: tuple[str, ...]) -> tuple[Path, dict[str, str]]:
    """ "DIR:folds=0,1" -> (DIR, {"folds": "0,1"}); colons of a path stay."""
    parts = text.split(":")
    options: dict[str, str] = {}
    while len(parts) > 1 and "=" in parts[-1] and "/" not in parts[-1]:
        key, _, value = parts.pop().partition("=")
        if key not in known:
            have = f"there is {', '.join(f'{name}=…' for name in known)}" if known else "it takes none"
            raise InputError(f"The option '{key}' of '{text}' isn't known; {have}.")
        options[key] = value
    return Path(":".join(parts)), options
