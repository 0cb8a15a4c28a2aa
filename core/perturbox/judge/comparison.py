"""Several results on one scan beside each other, from their result.json alone: what differs in how they were made, in
verdicts and in what became what, as numbers and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from perturbox.judge.summary import amount, broken, headline, listed, number, plain, size, worst_first
from perturbox.judge.verdicts import BROKEN, SAID
from perturbox.types import ADVERSARIAL_NOTICE

SCHEMA = "perturbox-comparison/1"
LETTERS = "ABCDEF"
FLOWS = 5  # differences of flows told in words
Record = Mapping[str, Any]

# How a result was made, as its readers call it.
MADE = {
    "model": lambda record: record["victim"]["name"],
    "weights": lambda record: record["victim"]["sha256"][:8],
    "attack": lambda record: record["attack"]["title"],
    "limit": lambda record: amount(record["budget"], record["budget"]["eps"]),
    "steps": lambda record: number(record["attack"]["parameters"].get("steps")),
    "goal": lambda record: record["attack"]["parameters"]["goal"],
    "target": lambda record: ", ".join(record["attack"]["parameters"]["target"]) or "every structure",
    "seed": lambda record: str(record["seed"]),
    "crafted on": lambda record: ", ".join(model["name"] for model in record["surrogates"]) or "the model itself",
}


def compare(records: Sequence[Record], sha256: Sequence[str]) -> dict[str, Any]:
    """What comparison.json says of two to six records; sha256: of each one's result.json.

    Structures are named once, whichever models know them; of a model that doesn't, every value is null. Dice is that of
    the prediction after the attack with the same model's prediction before, on which verdicts rest.
    """
    letters = LETTERS[: len(records)]
    made = [{key: said(record) for key, said in MADE.items()} for record in records]
    results = [
        {"letter": letter, "sha256": digest, **told, "headline": headline(record), "broken": broken(record)}
        for letter, digest, told, record in zip(letters, sha256, made, records, strict=True)
    ]
    structures, flow = _structures(records), _flow(records)
    differ_in = {key: [told[key] for told in made] for key in MADE if len({told[key] for told in made}) > 1}
    return {
        "schema": SCHEMA,
        "notice": ADVERSARIAL_NOTICE,
        "sizes": records[0]["source"]["sizes"],
        "results": results,
        "differ_in": differ_in,
        "structures": structures,
        "flow": flow,
        "said": [*_of_verdicts(structures, letters), *_of_flow(flow, letters, records[0]["source"]["sizes"])],
    }


def _structures(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row per structure that is there in any result, the most affected first."""
    names = dict.fromkeys(name for record in records for name in worst_first(record))
    rows = []
    for name in names:
        known = [name in record["verdicts"] for record in records]
        volumes = [
            [record["metrics"][key][name]["volume_ml"] for key in ("clean", "adversarial")] if there else None
            for there, record in zip(known, records, strict=True)
        ]
        rows.append(
            {
                "structure": name,
                "verdicts": [r["verdicts"][name] if there else None for there, r in zip(known, records, strict=True)],
                "dice": [_agreement(r, name) if there else None for there, r in zip(known, records, strict=True)],
                "volumes": volumes,
            }
        )

    def worst(row: Mapping[str, Any]) -> float:
        return min((dice for dice in row["dice"] if dice is not None), default=1.0)

    return sorted(rows, key=worst)


def _agreement(record: Record, name: str) -> float | None:
    rows = record["metrics"]["against_clean"] or record["metrics"]["adversarial"]
    return rows[name]["dice"]


def _flow(records: Sequence[Record]) -> list[dict[str, Any]] | None:
    """What became what in each result, the largest difference first; None where one of them doesn't know."""
    if any(record["flow"] is None for record in records):
        return None
    tables = [{(row["from"], row["to"]): row["ml"] for row in record["flow"]} for record in records]
    pairs = dict.fromkeys(pair for table in tables for pair in table)
    rows = [{"from": old, "to": new, "ml": [table.get((old, new), 0.0) for table in tables]} for old, new in pairs]
    return sorted(rows, key=lambda row: min(row["ml"]) - max(row["ml"]))


def _of_verdicts(rows: Sequence[Mapping[str, Any]], letters: str) -> list[str]:
    """Which structures broke where; then those that broke in another way."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        where = "".join(a for a, word in zip(letters, row["verdicts"], strict=True) if word in BROKEN)
        groups.setdefault(where, []).append(row["structure"])
    said = []
    for where in sorted(groups, key=lambda where: (-len(where), where)):
        names = listed(groups[where])
        if where == letters:
            said.append(f"{names} broke in {'both' if len(letters) == 2 else 'all'}.")
        elif where:
            said.append(f"{names} broke in {listed(where)} only.")
        else:
            said.append(f"{names} broke in none.")
    for row in rows:
        words = [word for word in row["verdicts"] if word in BROKEN]
        if len(set(words)) > 1:
            parts = [
                f"{SAID[word][1]} ({a})" for a, word in zip(letters, row["verdicts"], strict=True) if word is not None
            ]
            said.append(f"{row['structure']}: {', '.join(parts)}.")
    return said


def _of_flow(rows: Sequence[Mapping[str, Any]] | None, letters: str, sizes: str) -> list[str]:
    told = []
    for row in (rows or [])[:FLOWS]:
        if max(row["ml"]) - min(row["ml"]) < (1 if sizes == "pixels" else 0.05):
            break
        parts = [f"{size(ml, sizes)} {sizes} in {letter}" for letter, ml in zip(letters, row["ml"], strict=True)]
        told.append(f"{plain(row['from'])} → {plain(row['to'])}: {', '.join(parts)}.")
    return told
