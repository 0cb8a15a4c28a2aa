"""Writes docs/study.schema.json, with which editors complete and check study files.

python benchmarks/study_schema.py
"""

import json
from pathlib import Path

from perturbox.studies.design import Study

FILE = Path(__file__).resolve().parents[1] / "docs" / "study.schema.json"


def schema() -> str:
    """The JSON Schema of a study file, as text."""
    return json.dumps(Study.model_json_schema(by_alias=True), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(schema())
