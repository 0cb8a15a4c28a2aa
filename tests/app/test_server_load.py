"""A short run of the load test, and what it makes of its figures."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import pages
import server_load
from server_load import Tally


def tally(memory: float = 100.0) -> Tally:
    """A hundred seconds of one second's requests; `memory`: of the server at the end, 100 after the warm-up."""
    seen = Tally()
    for second in range(100):
        seen.add("GET /info/", 200, 0.010)
        seen.memory.append((second, round(100 if second < 60 else memory), 50))
    seen.add("GET /info/", 200, 1.0)
    seen.saw("a", "done")
    return seen


def figures(seen: Tally, lost: tuple[str, ...] = ()) -> dict:
    return server_load.figures(seen, list(lost), 100.0, 20, 1.5)


def test_figures_count_answers_and_their_times():
    found = figures(tally())
    assert found["requests"] == 101 and found["failures"] == []
    row = found["routes"]["GET /info/"]
    assert row["statuses"] == {"200": 101}
    assert (row["p50_ms"], row["p99_ms"]) == (10, 10)
    assert found["memory"]["server"] == {"warm_bytes": 100, "end_bytes": 100, "growth": 0}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda seen: seen.add("GET /info/", 500, 0.1), "1 requests ended in 500"),
        (lambda seen: seen.add("GET /info/", 0, 0.1), "1 requests ended in 0"),
        (lambda seen: seen.strange("job a ended as failed"), "job a ended as failed"),
    ],
)
def test_whatever_breaks_fails_the_load(spoil, said):
    seen = tally()
    spoil(seen)
    assert said in figures(seen)["failures"]


def test_growth_and_lost_jobs_fail_the_load():
    assert figures(tally(109.0))["failures"] == []
    assert figures(tally(112.0))["failures"] == ["server grew by 12%"]
    assert figures(tally(), ("a",))["failures"] == ["1 jobs lost"]


def test_the_section_replaces_its_elder_and_survives_the_other_author():
    first, second = (server_load.section(figures(tally(memory))) for memory in (100.0, 105.0))
    page = pages.with_section("# Benchmarks\n\ntext\n", first)
    assert page == f"# Benchmarks\n\ntext\n\n{first}"
    assert pages.with_section(page, second) == f"# Benchmarks\n\ntext\n\n{second}"
    assert pages.section_of(page, pages.SERVER) == first and pages.section_of("# Benchmarks\n", pages.SERVER) == ""
    assert "| GET /info/ | 101 × 200 | 10 | 10 |" in first and "Nothing failed." in first


@pytest.mark.slow
def test_twenty_clients_break_nothing(tmp_path):
    """The whole takes five minutes and is run apart; here half a minute, too short to speak of memory."""
    found = server_load.load(30, 20, tmp_path / "server")
    assert [failure for failure in found["failures"] if "grew by" not in failure] == []
    assert found["lost"] == [] and set(found["jobs"]) <= {"done", "cancelled"}
    assert found["requests"] > 100 and found["stop_seconds"] < 15
