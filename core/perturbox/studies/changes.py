"""What ordinary changes do beside an attack: as large as it, and in their own grades."""

from collections.abc import Sequence

from perturbox.studies import statistics
from perturbox.studies.frames import Found, Frame, own


def each(attacks: Frame, changed: Frame, confidence: float) -> list[Found]:
    """Per model and structure: Dice over patients with its interval, and the RMS of the change, of each attack (no
    corruption), of each ordinary change as large as one (no grade), and of each in its own grades (no attack)."""
    found = []
    for frame, keys in (
        (own(attacks), ("attack", "eps")),
        (changed[changed["grade"].isna()], ("corruption", "attack", "eps")),
        (changed[changed["grade"].notna()], ("corruption", "grade")),
    ):
        for key, part in frame.groupby(["target", "structure", *keys]):
            patients = part.groupby("patient")[["rms", "dice_clean", "dice"]].mean()
            spread = statistics.mean_interval(patients["dice"].tolist(), confidence)
            assert spread is not None
            named = dict(zip(("model", "structure", *keys), key, strict=True))
            grade = {"grade": int(named["grade"])} if "grade" in named else {}
            found.append(
                {
                    **dict.fromkeys(("corruption", "grade", "attack", "eps")),
                    **named,
                    **grade,
                    "n": spread.n,
                    "rms": float(patients["rms"].mean()),
                    "dice_clean": float(patients["dice_clean"].mean()),
                    "dice": spread.mean,
                    "low": spread.low,
                    "high": spread.high,
                }
            )
    return found


def beside(attacks: Frame, changed: Frame, confidence: float) -> list[Found]:
    """Per model, attack and limit: the mean fall of Dice over the structures attacked and patients; the most that an
    ordinary change as large takes; and of each ordinary change the mildest grade that takes as much, if one does."""

    def falls(frame: Frame, keys: Sequence[str]) -> Frame:
        each = frame.groupby(["target", *keys, "patient"])[["drop", "rms"]].mean()
        return each.groupby(["target", *keys]).mean()

    same = falls(changed[changed["grade"].isna()], ("attack", "eps", "corruption"))
    graded = falls(changed[changed["grade"].notna()], ("corruption", "grade")).reset_index()
    found = []
    for (model, attack, eps), part in own(attacks).groupby(["target", "attack", "eps"]):
        patients = part.groupby("patient")[["drop", "rms"]].mean()
        spread = statistics.mean_interval(patients["drop"].tolist(), confidence)
        assert spread is not None
        known = {
            name: float(row["drop"]) for (m, a, e, name), row in same.iterrows() if (m, a, e) == (model, attack, eps)
        }
        worst = max(known, key=lambda name: known[name]) if known else None
        as_bad = graded[(graded["target"] == model) & (graded["drop"] >= spread.mean)].sort_values(
            ["corruption", "grade"]
        )
        found.append(
            {
                "model": model,
                "attack": attack,
                "eps": eps,
                "rms": float(patients["rms"].mean()),
                "drop": spread.mean,
                "low": spread.low,
                "high": spread.high,
                "n": spread.n,
                "same_rms": known,
                "worst": worst,
                "as_bad": [
                    {
                        "corruption": row["corruption"],
                        "grade": int(row["grade"]),
                        "rms": row["rms"],
                        "drop": row["drop"],
                    }
                    for row in as_bad.drop_duplicates("corruption").to_dict("records")
                ],
            }
        )
    return found
