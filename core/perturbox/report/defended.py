"""What a model's defences were worth, on the page of a result: both attacks side by side, and how they were made."""

from html import escape

from perturbox.judge.summary import defense_means
from perturbox.report.facts import facts
from perturbox.report.story import Story
from perturbox.report.tables import table
from perturbox.report.words import fixed, number

ROWS = {
    "clean": "No attack, behind it",
    "oblivious": "Oblivious: the attack doesn’t know of it",
    "adaptive": "Adaptive: the attack goes through it",
    "undefended": "Without it: the oblivious attack on the model alone",
}
READING = (
    "Dice with the model’s clean prediction without the defence, or with the expert outline where there is one. Only "
    "the adaptive row says what the defence is worth: an attacker who knows of it is the one to expect."
)


def section(story: Story) -> str:
    """A table and the facts behind it; "" for a model without defences."""
    record = story.result.record
    if "defense" not in record:
        return ""
    dice, means = record["defense"]["dice"], defense_means(record)
    names = [(f.name, f.title) for f in story.present]
    rows = [
        [title, fixed(means[which], 3), *(fixed(dice[which].get(name), 3) for name, _ in names)]
        for which, title in ROWS.items()
    ]
    made = [
        (one["title"], f"{one['spec']} – {one['paper'] or 'made in Python'}") for one in record["victim"]["defense"]
    ]
    tried = "; ".join(_tried(one) for one in record["defense"]["candidates"])
    told = facts([*made, ("Stand-in of the worst", record["defense"]["stand_in"]), ("Tried", tried)])
    head = ["", "Mean", *(title for _, title in names)]
    return f"<h3>{escape('What the defence is worth')}</h3>{table(head, rows, READING)}{told}"


def _tried(one: dict) -> str:
    draws = f" of {one['draws']} draws each" if one["draws"] > 1 else ""
    return f"{one['stand_in']}: score {fixed(one['score'], 3)}, {number(one['backwards'])} gradients{draws}"
