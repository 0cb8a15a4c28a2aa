"""What `verify` and `replay` say of a folder, which may come from anywhere."""

from collections.abc import Sequence

from perturbox.job.folder import Findings


def findings(found: Findings) -> list[str]:
    """What `verify` recomputed, what doesn't hold, and what nobody can recompute from a folder."""
    notes = [f"Note: {note}" for note in found.notes]
    recorded = f"{found.recorded} values are only recorded, {found.only}."
    warning = "A hash inside a folder shows damage, not forgery."
    files = f" {found.files} files are those that were saved." if found.files else ""
    if found.problems:
        count = len(found.problems)
        looked = f", of {found.recomputed} values that can be recomputed and {found.files} files"
        last = f"{count} thing{'s' * (count > 1)} {'do' if count > 1 else 'does'}n't hold{looked}."
    else:
        last = f"All {found.recomputed} values that can be recomputed hold.{files}"
    return [_printable(line) for line in (*found.problems, *notes, recorded, warning, last)]


def replay_lines(unlike: Sequence[str], changed: Sequence[str], most: int = 12) -> list[str]:
    """Whether a replay repeats what was recorded, what differs, and what may be why."""
    told = f"Other software than then: {'; '.join(changed)}." if changed else ""
    if not unlike:
        same = "The result is the recorded one: every voxel, every number and the trace."
        return [same, *([told] if told else [])]
    rest = len(unlike) - most
    return [
        "The result differs from the recorded one:",
        *(f" {_printable(line)}" for line in unlike[:most]),
        *([f" and {rest} more"] if rest > 0 else []),
        told
        or "Software, device and threads are those of then: the hardware, the model's code or the record is another.",
    ]


def _printable(line: str) -> str:
    """Without what a terminal would obey: the folder's own words are in it."""
    return "".join(letter if letter.isprintable() else "�" for letter in line)
