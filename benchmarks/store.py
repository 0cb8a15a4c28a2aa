"""docs/benchmarks.json has a part for each author; each adds its rows as they come, so that a stopped run goes on."""

import json
import os
from pathlib import Path
from typing import Any

import machine


def stored(document: Path, part: str) -> dict[str, Any]:
    """What benchmarks.json holds of one part."""
    found = json.loads(document.read_text(encoding="utf-8")) if document.exists() else {}
    return found.get(part) or {}


def store(document: Path, part: str, key: str, row: dict[str, Any], command: str) -> None:
    """Add a row to a part of benchmarks.json, whole or not at all."""
    whole = json.loads(document.read_text(encoding="utf-8")) if document.exists() else {}
    rows = {**(whole.get(part) or {}).get("rows", {}), key: row}
    told = {"cpu": machine.processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    whole[part] = {
        "command": command, "machine": told, "versions": machine.versions(), "rows": dict(sorted(rows.items()))
    }  # fmt: skip
    document.parent.mkdir(parents=True, exist_ok=True)
    draft = document.with_suffix(".json.part")
    draft.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    draft.replace(document)
