"""What became what, as the panel shows it: largest first, of the selected structures, many small ones summed up."""

import numpy as np
import pytest
from PerturboxLib import flow


class Told:
    """A result of these flows, in ml."""

    def __init__(self, flows):
        self.record = {"flow": flows}

    def ml(self, amount: float) -> str:
        return f"{amount:.0f} ml"


def rows(*flows):
    return [{"from": before, "to": after, "ml": ml} for before, after, ml in flows]


KIDNEY = rows(
    ("kidney", "spleen", 55.0), ("kidney", "background", 44.0), ("gut", "kidney", 190.0), ("liver", "gut", 5.0)
)


def test_the_largest_flow_comes_first_and_background_is_nothing():
    assert flow.lines(Told(KIDNEY)) == [
        ("Gut", "kidney", "190 ml"),
        ("Kidney", "spleen", "55 ml"),
        ("Kidney", "nothing", "44 ml"),
        ("Liver", "gut", "5 ml"),
    ]


def test_of_a_structure_what_it_lost_and_what_is_newly_called_so():
    told = flow.lines(Told(KIDNEY), ["kidney"])
    assert [line[:2] for line in told] == [("Gut", "kidney"), ("Kidney", "spleen"), ("Kidney", "nothing")]
    assert flow.lines(Told(KIDNEY), ["bone"]) == []


def test_many_small_flows_are_summed_up():
    many = rows(*((f"rib_{n}", "background", 10.0 - n) for n in range(9)))
    told = flow.lines(Told(many))
    assert len(told) == flow.MOST + 1 and told[-1] == ("3 more", "", f"{4 + 3 + 2} ml")


def test_an_older_result_says_nothing_of_it():
    assert flow.lines(Told(None)) == [] and flow.flows(Told([])) == []


@pytest.mark.parametrize("stays", [("kidney", "kidney", 100.0), ("kidney", "liver", 0.0)])
def test_what_kept_its_name_is_no_flow(stays):
    assert flow.flows(Told(rows(stays))) == []


def test_the_sums_are_those_of_the_two_label_maps():
    """Counted here by itself, from maps with every pair of labels."""
    labels = {"background": 0, "liver": 1, "spleen": 2, "kidney": 4}
    draw = np.random.default_rng(3).choice(list(labels.values()), (2, 12, 11, 10))
    record = rows(
        *((a, b, float(((draw[0] == i) & (draw[1] == j)).sum())) for a, i in labels.items() for b, j in labels.items())
    )
    found = flow.flows(Told(record), ["kidney"])
    lost = sum(each.amount for each in found if each.before == "kidney")
    gained = sum(each.amount for each in found if each.after == "kidney")
    assert lost == ((draw[0] == 4) & (draw[1] != 4)).sum() and gained == ((draw[1] == 4) & (draw[0] != 4)).sum()
