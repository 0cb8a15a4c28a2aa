"""The section of docs/benchmarks.md on strength."""

from typing import Any

import pages


def section(found: dict[str, Any]) -> str:
    return pages.STRENGTH + "\n"
