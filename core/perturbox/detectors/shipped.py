"""Detectors that come with perturbox, and the one place where a word becomes a detector: a file, or a shipped one."""

from collections.abc import Sequence
from pathlib import Path

from perturbox.detectors.fitted import AGAIN, Detector
from perturbox.errors import InputError
from perturbox.model.victim import Victim
from perturbox.zoo.models import DETECTORS

SUFFIX = ".safetensors"


def _all() -> dict[str, dict[str, Path]]:
    """Files by victim and name: FOLDER/VICTIM/NAME.safetensors."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(DETECTORS.glob(f"*/*{SUFFIX}")):
        found.setdefault(path.parent.name, {})[path.stem] = path
    return found


def shipped(victim: str) -> dict[str, Path]:
    """Files of the detectors that are shipped for the victim of that name, by their own names."""
    return dict(_all().get(victim, {}))


def victims_with(name: str) -> list[str]:
    """The victims for which a detector of that name is shipped."""
    return [victim for victim, files in _all().items() if name in files]


def told(victims: Sequence[str]) -> str:
    """What is shipped for these victims, as the part of a sentence."""
    names = sorted({name for victim in victims for name in shipped(victim)})
    who = " and ".join([victim for victim in victims if shipped(victim)] or victims)
    if not names:
        return f"none is shipped for {who}"
    several = len(names) > 1
    return f"{'those' if several else 'the one'} shipped for {who} {'are' if several else 'is'} {' and '.join(names)}"


def place(word: str | Path, victim: str) -> Path:
    """The file that a word means for the victim of that name: that file, or a shipped detector's by its name. Raises
    InputError for any other word."""
    if Path(word).is_file():
        return Path(word)
    if (found := shipped(victim).get(str(word))) is None:
        raise InputError(f"There is no detector '{word}': it is no file, and {told([victim])}; {AGAIN}")
    return found


def find(word: str | Path, victim: Victim) -> Detector:
    """The detector that a word means for a victim, see `place`; raises InputError for that of another model too."""
    found = Detector.read(place(word, victim.name))
    found.check(victim)
    return found
