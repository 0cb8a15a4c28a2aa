"""The report through axe-core, which looks for what keeps people from reading a page with a screen reader, a keyboard
or weak eyes. The script comes from a package that carries it, for the length of the test."""

import pytest
from peers import installed
from report_fixture import make_result, many_structures
from report_reader import Reader

from perturbox.report import write_report

PACKAGE = "axe-playwright-python==0.1.8"  # axe-core 4.12; its Python needs a browser of its own, which isn't installed
MODULE = "axe_playwright_python.base"
RUN = """const done = arguments[0], short = v => [v.id, v.help, v.nodes.map(n => n.html.slice(0, 200))];
document.querySelectorAll("details").forEach(d => { d.open = true; });
axe.run().then(r => done({rules: r.passes.length, violations: r.violations.map(short)}), e => done(String(e)))"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("axe")
    with installed(folder, PACKAGE, [MODULE]):
        return (folder / MODULE.split(".")[0] / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("profile"))
    yield reader
    reader.driver.quit()


REPORTS = {
    "ct": lambda folder: make_result(folder, influence=True),
    "photograph": lambda folder: make_result(folder, flat=True),
    "sixty": lambda folder: many_structures(folder, 60),
}


@pytest.mark.peer
@pytest.mark.parametrize("kind", REPORTS)
def test_axe_finds_nothing(axe, reader, tmp_path, kind):
    page = write_report(REPORTS[kind](tmp_path / "r"))
    for scheme in ("light", "dark"):
        reader.media(prefers_color_scheme=scheme)
        for view in ("", "#mode=heat", "#mode=difference"):
            reader.open(page, view)
            reader.run(axe)
            found = reader.driver.execute_async_script(RUN)
            assert found["violations"] == [] and found["rules"] > 20, (scheme, view)
