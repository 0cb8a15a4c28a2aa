"""Two JSON documents leaf by leaf, and which leaves of a result can be recomputed at all."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Place = tuple[str, ...]

# What neither the files, nor the model, nor the installed recipe determine: how the result came about. Every other
# leaf of result.json is recomputed; what has no place in either way doesn't verify.
RECORDED = (
    "attack.parameters",
    "victim.spec",
    "surrogates",
    "crafted_on",
    "source.sha256",
    "budget.unit_asked",
    "budget.eps_asked",
    "image_metrics.uninfluential_fraction",
    "margin",
    "members",
    "trace",
    "best",
    "stopped_early",
    "untested",
    "precision",
    "effort",
    "versions",
    "device",
    "threads",
    "seed",
    "force",
)
# Of an attack on a defended model: how it went beside the one that is reported.
DEFENDED_RECORDED = ("defense.stand_in", "defense.candidates")
# Settings that the numbers rest on: a false one makes these differ.
SETTLED = ("attack.parameters.eps", "attack.parameters.norm", "attack.parameters.goal", "attack.parameters.target")

MARGIN_RECORDED = (
    "attack.parameters",
    "surrogates",
    "max_eps",
    "asked",
    "seed",
    "trials",
    "stopped_early",
    "effort",
    "versions",
    "warnings",
)


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """The place of every number, word and null; an empty list or object is one too."""
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            yield from leaves(entry, (*place, key))
    elif isinstance(value, list) and value:
        for index, entry in enumerate(value):
            yield from leaves(entry, (*place, f"[{index}]"))
    else:
        yield place


def within(place: Place, prefixes: Sequence[str]) -> bool:
    """Whether a place is one of these or lies in it."""
    return any(place[: len(parts)] == parts for parts in (tuple(prefix.split(".")) for prefix in prefixes))


def only_recorded(place: Place, recorded: Sequence[str] = RECORDED) -> bool:
    """Whether nothing determines a leaf of result.json, or of the document that `recorded` belongs to."""
    of_result = recorded is RECORDED
    return within(place, (*recorded, *DEFENDED_RECORDED * of_result)) and not (of_result and within(place, SETTLED))


def with_recorded(found: dict[str, Any], stored: Mapping[str, Any], recorded: Sequence[str]) -> dict[str, Any]:
    """What was recomputed, and of the rest what is stored, so that a stored document that holds equals it."""
    result = dict(found)
    for prefix in recorded:
        target, source, parts = result, stored, prefix.split(".")
        for part in parts[:-1]:
            target[part] = dict(target.get(part) or {})
            target = target[part]
            below = source.get(part) if isinstance(source, Mapping) else None
            source = below if isinstance(below, Mapping) else {}
        target[parts[-1]] = source.get(parts[-1], "something")
    return result


def differences(stored: Any, found: Any, place: str, teller: str = "the files say") -> Iterator[str]:
    """One line for every leaf where two JSON values differ by more than rounding; an entry that only one has counts."""
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in sorted(stored.keys() | found.keys()):
            inner = f"{place}.{key}" if place else key
            if key not in found:
                yield f"{inner}: result.json says {_short(stored[key])}, which isn't known here"
            elif key not in stored:
                yield f"{inner}: result.json lacks it, {teller} {_short(found[key])}"
            else:
                yield from differences(stored[key], found[key], inner, teller)
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for index, (a, b) in enumerate(zip(stored, found, strict=True)):
            yield from differences(a, b, f"{place}[{index}]", teller)
    elif _is_number(stored) and _is_number(found) and float in (type(stored), type(found)):
        before, now = float(stored), float(found)  # type: ignore[arg-type]
        if abs(before - now) > 1e-6 * max(1.0, abs(before), abs(now)):
            yield f"{place}: result.json says {before:g}, {teller} {now:g}"
    elif stored != found or isinstance(stored, bool) != isinstance(found, bool):
        yield f"{place}: result.json says {_short(stored)}, {teller} {_short(found)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} rows" if len(value) > 6 else repr(value)
    said = repr(value)
    return said if len(said) <= 120 else said[:117] + "…"


def as_known(found: Any, stored: Any) -> Any:
    """What was recomputed, null where an older schema recorded nothing."""
    if stored is None:
        return None
    if isinstance(found, dict) and isinstance(stored, dict):
        return {key: as_known(value, stored.get(key)) for key, value in found.items()}
    return found
