"""Effort, provenance and what is known about the model, as lists of facts; what a record lacks is "not stated"."""

from collections.abc import Iterable
from html import escape
from typing import Any

from perturbox.report import words
from perturbox.report.story import Story
from perturbox.report.words import fixed, number
from perturbox.types import points


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in pairs) + "</dl>"


def provenance(story: Story) -> str:
    record = story.result.record
    attack, source, victim = record["attack"], record["source"], record["victim"]
    return facts(
        [
            ("Effort", effort(record["effort"])),
            ("Strength of claim", words.NO_PROOF),
            ("Success rule", words.success(record)),
            ("Attack", f"{attack.get('title') or attack['name']} – {attack.get('paper') or 'paper not stated'}"),
            ("Settings", f"{settings(attack['parameters'])}, seed {record['seed']}"),
            ("Budget of its own", _own_budget(attack.get("own_budget"))),
            ("Crafted on", _crafted_on(record)),
            ("Deviations", "; ".join(attack.get("deviations") or []) or "none stated"),
            ("Change, saved file", _change(story)),
            *_channels(record),
            ("Noise of the scan", _noise(story)),
            ("Visibility", _visibility(story)),
            ("Reach", _reach(record.get("image_metrics") or {})),
            ("Machine", f"{record['device']}, {record['threads']} threads, window batch {record['window_batch']}"),
            ("Versions", versions(record["versions"])),
            ("Input", f"{source['dtype']}, SHA-256 {short_hash(source.get('sha256'))}"),
            ("Model", f"{victim['name']}, SHA-256 {short_hash(victim.get('sha256'))}"),
            ("Result", f"SHA-256 {short_hash(story.result.sha256)}"),
        ]
    )


def model_facts(victim: dict[str, Any]) -> str:
    def stated(key: str) -> str:
        return str(victim.get(key) or "not stated")

    spacing, window = victim.get("spacing_mm"), victim.get("window")
    return facts(
        [
            ("Model", victim.get("title") or victim["name"]),
            ("Intended use", stated("intended_use")),
            ("Training data", stated("training_data")),
            ("Known limits", stated("limits")),
            ("Structures", ", ".join(name.replace("_", " ") for name, value in victim["labels"].items() if value)),
            ("Working grid", " × ".join(number(s) for s in spacing) + " mm" if spacing else "the scan’s own"),
            ("Window", " × ".join(str(n) for n in window) + f" {points(len(window))}" if window else "not stated"),
            ("Licence", stated("licence")),
        ]
    )


def effort(effort: dict[str, Any]) -> str:
    parts = [
        f"{number(effort['forwards'])} forward and {number(effort['backwards'])} backward passes of the whole scan"
    ]
    if effort.get("seconds") is not None:
        parts.append(duration(effort["seconds"]))
    if effort.get("peak_bytes"):
        parts.append(f"peak {number(effort['peak_bytes'] / 1e9, 2)} GB")
    return " · ".join(parts)


def settings(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_setting(value)}" for name, value in parameters.items() if value not in (None, [], ""))


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, list):
        return "+".join(_setting(v) for v in value)
    return str(value)


def _own_budget(own: dict[str, Any] | None) -> str:
    if own is None:
        return "none: the limit above"
    unit = f" {own['unit']}" if own["unit"] else ""
    return f"{own['parameter']} {number(own['value'])}{unit}, {own['meaning']}; not comparable with attacks at a limit"


def _crafted_on(record: dict[str, Any]) -> str:
    models, scans = record.get("surrogates") or [], record.get("crafted_on") or []
    told = ", ".join(f"{model['name']} (SHA-256 {short_hash(model.get('sha256'))})" for model in models)
    on = f"other models: {told}; the attacked model was never asked" if models else "the model itself"
    return f"{on}; {len(scans)} other files, this scan never" if scans else on


def _change(story: Story) -> str:
    measured, unit = story.result.record["budget"]["measured"], story.units.value
    return (
        f"largest {number(measured['linf'])} {unit}, RMS {number(measured['l2'])} {unit}, "
        f"{number(_percent(measured['l0']))} % of {story.units.points}"
    )


def _channels(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Limit and change of each channel in its file's own unit, where these are files of their own."""
    rows = record["budget"].get("channels") or []
    names = record["victim"].get("channel_names") or [f"channel {number}" for number in range(len(rows))]
    own = "HU" if record["source"]["unit"] == "HU" else "units"
    said = [
        f"{name}: limit {number(row['eps'])}, largest {number(row['linf'])}, RMS {number(row['l2'])} {own}"
        for name, row in zip(names, rows, strict=True)
    ]
    return [("Change by channel", "; ".join(said))] if said else []


def _noise(story: Story) -> str:
    noise, unit = story.result.record["noise"], story.units.value
    if not noise.get("sigma"):
        return f"not available ({noise.get('region') or 'reason not stated'})"
    text = f"σ {number(noise['sigma'])} {unit} ({noise.get('region') or 'region not stated'})"
    if noise.get("rms_over_sigma") is not None:
        text += f"; the change is {number(noise['rms_over_sigma'], 2)} σ in RMS"
    return text


def _visibility(story: Story) -> str:
    image = story.result.record.get("image_metrics") or {}
    parts = []
    if image.get("psnr_db") is not None:
        parts.append(f"PSNR {number(image['psnr_db'])} dB")
    if image.get("ssim") is not None:
        parts.append(f"SSIM {fixed(image['ssim'], 3)}")
    if parts and image.get("data_range_hu"):
        parts.append(f"over a range of {number(image['data_range_hu'], 4)} {story.units.value}")
    return ", ".join(parts) or "not measured"


def _reach(image: dict[str, Any]) -> str:
    parts = []
    if image.get("uninfluential_fraction") is not None:
        parts.append(f"{number(_percent(image['uninfluential_fraction']), 2)} % of values never got a gradient")
    if image.get("energy_above_grid") is not None:
        percent = number(_percent(image["energy_above_grid"]), 2)
        parts.append(f"{percent} % of the change’s energy is finer than the model’s grid")
    if image.get("unreachable_fraction"):
        parts.append(
            f"{number(_percent(image['unreachable_fraction']), 2)} % of the scan lies outside what the model looks at"
        )
    return "; ".join(parts) or "not measured"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def short_hash(value: str | None) -> str:
    return f"{value[:8]}…{value[-4:]}" if value else "not stated"


def versions(known: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in known.items())


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
