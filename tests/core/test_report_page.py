"""The report in a real browser: headless Chromium opens the file and does what a reader would."""

import base64
import hashlib
import json
import re
import time
import zlib

import nibabel as nib
import numpy as np
import pytest
from report_fixture import make_result, many_structures
from report_reader import CONTRAST, Reader

from perturbox.report import write_report


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("profile"))
    yield reader
    reader.driver.quit()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return write_report(make_result(tmp_path_factory.mktemp("straight") / "r"))


@pytest.fixture(scope="module")
def oblique(tmp_path_factory):
    return write_report(make_result(tmp_path_factory.mktemp("oblique") / "r", axes="SAR", tilt=12))


@pytest.fixture
def page(reader, straight):
    """The page with every structure shown, in axial slices."""
    reader.media()
    reader.open(straight, "#plane=axial")
    return reader


def compare_with_files(reader, folder, count=400):
    """Random voxels as the page reads them, against the files themselves."""
    meta = reader.run("return perturbox.meta")
    read = lambda name: np.asanyarray(nib.load(folder / name).dataobj).astype(float)  # noqa: E731
    perturbed, change = read("adversarial.nii.gz"), read("perturbation.nii.gz")
    segmentations = [read("clean_seg.nii.gz"), read("adversarial_seg.nii.gz")]
    rng = np.random.default_rng(5)
    points = [[int(rng.integers(n)) for n in meta["shape"]] for _ in range(count)]
    shown = reader.run("return arguments[0].map(p => perturbox.read(p))", points)
    for point, values in zip(points, shown, strict=True):
        at = [0, 0, 0]
        for axis, k in zip(meta["axes"], point, strict=True):
            at[axis["file"]] = axis["kept"][k]
        at = tuple(at)
        assert (values["before"], values["delta"]) == ([perturbed[at] - change[at]], [change[at]])
        assert [values["clean"], values["adversarial"]] == [s[at] for s in segmentations]


def test_voxels_are_those_of_the_files(page):
    compare_with_files(page, page.path.parent)


def test_voxels_of_an_oblique_scan_with_other_axes(reader, oblique):
    reader.media()
    reader.open(oblique)
    compare_with_files(reader, oblique.parent)


def test_browsers_without_decompression_read_the_same(reader, straight):
    hidden = reader.cdp("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    try:
        reader.open(straight)
        assert reader.run("return typeof DecompressionStream") == "undefined"
        compare_with_files(reader, straight.parent)
    finally:
        reader.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=hidden["identifier"])


@pytest.mark.parametrize(
    ("level", "strategy"),
    [(0, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_DEFAULT_STRATEGY), (6, zlib.Z_FIXED), (6, zlib.Z_RLE)],
)
def test_own_inflate_knows_every_kind_of_block(page, rng, level, strategy):
    data = np.repeat(rng.integers(0, 256, 3000), rng.integers(1, 60, 3000)).astype(np.uint8).tobytes()
    packer = zlib.compressobj(level, zlib.DEFLATED, 31, 9, strategy)  # 31: gzip, no name
    packed = base64.b64encode(packer.compress(data) + packer.flush()).decode()
    checksum = """const out = inflate(Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)));
    let a = 1, b = 0; for (const v of out) { a = (a + v) % 65521; b = (b + a) % 65521; } return b * 65536 + a"""
    assert page.run(checksum, packed) == zlib.adler32(data)


def test_no_requests_and_no_errors(page):
    page.driver.get_log("performance"), page.driver.get_log("browser")  # what came before this page
    page.open(page.path)
    page.press("2", "3", "4", "5", "1", "n", "p", "m", "w", "g", "a", "i", "r")
    asked = set()
    for entry in page.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"].split(":")[0])
    assert asked <= {"file", "data", "about"}
    assert (
        page.run("return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))")
        == []
    )
    assert [entry for entry in page.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_anatomy_stands_where_a_radiologist_expects_it(page, oblique):
    for path in (page.path, oblique):
        page.open(path, "#mode=before&plane=axial")
        marks = page.run("return [...document.querySelectorAll('.pane .mark')].slice(0, 4).map(m => m.textContent)")
        assert marks == ["R", "L", "A", "P"]
        assert "label Liver" in page.point(0.25, 0.45) and "label Spleen" in page.point(0.78, 0.5)
        page.open(path, "#mode=before&plane=coronal&structure=kidney_left")
        marks = page.run("return [...document.querySelectorAll('.pane .mark')].slice(0, 4).map(m => m.textContent)")
        assert marks == ["R", "L", "S", "I"]
        page.open(path, "#mode=before&plane=sagittal")
        marks = page.run("return [...document.querySelectorAll('.pane .mark')].slice(0, 4).map(m => m.textContent)")
        assert marks == ["A", "P", "S", "I"]


def test_read_out_names_both_values_and_the_voxel(page):
    page.press("4")
    text = page.point(0.5, 0.5)
    before, after, change = (
        float(part.replace("−", "-")) for part in re.findall(r"(?:Before|after|change) ([+−\d.]+) HU", text)
    )
    assert before + change == after
    assert "voxel i " in text and "label" in text


def test_pixels_keep_their_shape(page):
    for plane, (across, down) in {"axial": (2, 1), "coronal": (2, 0), "sagittal": (1, 0)}.items():
        page.open(page.path, f"#mode=before&plane={plane}")
        mm = page.run("return perturbox.meta.axes.map(a => a.mm * (Math.abs(a.kept.at(-1) - a.kept[0]) + 1))")
        wide, high = page.run(
            "const c = document.querySelector('.pane canvas'); return [c.clientWidth, c.clientHeight]"
        )
        assert wide / high == pytest.approx(mm[across] / mm[down], rel=0.01)


def test_click_in_the_chart_jumps(page):
    def click(share):
        return page.run(
            """const svg = document.querySelector("[data-chart=axial] svg"), b = svg.getBoundingClientRect();
            const x = +svg.dataset.left + arguments[0] * (svg.dataset.right - svg.dataset.left);
            const clientX = b.left + x / svg.viewBox.baseVal.width * b.width;
            svg.dispatchEvent(new MouseEvent("click", {clientX, bubbles: true}));
            return [perturbox.state.at[0], +svg.querySelector(".cursor").getAttribute("x1")]""",
            share,
        )

    kept = page.run("return perturbox.meta.axes[0].kept.length")
    first, middle, last = click(0), click(0.5), click(1)
    assert [first[0], last[0]] == [0, kept - 1]
    assert abs(middle[0] - (kept - 1) / 2) <= 1
    assert first[1] < middle[1] < last[1]


def test_rows_isolate_and_jump(page):
    spleen = page.run("return 1 + perturbox.meta.structures.findIndex(s => s.name === 'spleen')")
    everything = page.picture()
    row = f"document.querySelector('tr[data-structure=\"{spleen}\"] button')"
    page.run(f"{row}.click()")
    state = page.view()
    assert state["only"] == spleen
    assert state["slice"] == page.run("return perturbox.meta.planes[0].worst[arguments[0]]", spleen)
    assert page.run(f"return {row}.getAttribute('aria-pressed')") == "true"
    assert page.run("return document.getElementById('isolate').getAttribute('aria-pressed')") == "true"
    dim = page.run(
        "return [...document.querySelectorAll('[data-chart=axial] .line.dim')].map(l => +l.dataset.structure)"
    )
    assert spleen not in dim and len(dim) == 4
    assert page.picture() != everything
    page.run(f"{row}.click()")
    assert page.view()["only"] == 0


def test_next_previous_and_worst_slice(page):
    changed, worst = page.run("const p = perturbox.meta.planes[0]; return [p.changed[0], p.worst[0]]")
    page.run("perturbox.go(0)")
    page.press("n")
    assert page.view()["slice"] == changed[0]
    page.press("n", "n", "p")
    assert page.view()["slice"] == changed[1]
    page.press("m")
    assert page.view()["slice"] == worst
    page.run("perturbox.go(perturbox.meta.planes[0].numbers.length - 1)")
    page.press("n")
    assert "No next changed slice" in page.run("return document.getElementById('status').textContent")
    number, total = page.run("const p = perturbox.meta.planes[0]; return [p.numbers.at(-1), p.total]")
    assert f"Axial {number} / {total}" in page.run("return document.querySelector('.info').textContent")


def test_wheel_arrows_and_slider_scrub(page):
    page.run("perturbox.go(10)")
    page.press("ArrowRight", "f", "ArrowLeft")
    assert page.view()["slice"] == 11
    page.run("document.getElementById('views').dispatchEvent(new WheelEvent('wheel', {deltaY: 100, cancelable: true}))")
    assert page.view()["slice"] == 13
    page.run("const s = document.getElementById('slice'); s.value = 3; s.dispatchEvent(new Event('input'))")
    assert page.view()["slice"] == 3


def test_modes_say_what_they_show_and_synthetic_is_marked(page):
    pictures = {}
    for key, panes in {"1": 2, "2": 1, "3": 1, "4": 1, "5": 1}.items():
        page.press(key)
        names = page.names()
        assert len(names) == panes
        pictures[key] = page.picture()
        assert all("SYNTHETIC" in name for name in names if not name.startswith(("BEFORE", "DIFFERENCE")))
        pressed = page.run(
            "return [...document.querySelectorAll('[data-mode][aria-pressed=true]')].map(b => b.textContent)"
        )
        assert len(pressed) == 1 and pressed[0].endswith(key)
    assert len({pictures[k] for k in "2345"}) == 4
    page.press("5")
    page.choose("#labels", "off")
    corner = page.run(
        """const c = document.querySelector(".pane canvas"), p = c.getContext("2d"), dot = c.width / c.clientWidth;
        const word = [...p.getImageData(10 * dot, c.height - 24 * dot, 80 * dot, 16 * dot).data];
        return word.filter((v, i) => i % 4 === 0 && v > 250).length"""
    )
    assert corner > 50  # the word is part of the picture, not only a label above it


def test_three_planes(page):
    sizes = set()
    for axis, plane in enumerate(("axial", "coronal", "sagittal")):
        page.click(f"[data-plane='{axis}']")
        assert page.run(
            "return [...document.querySelectorAll('[data-chart]')].filter(c => !c.hidden).map(c => c.dataset.chart)"
        ) == [plane]
        page.press("m")
        state = page.view()
        assert state["plane"] == axis
        assert state["slice"] == page.run("return perturbox.meta.planes[arguments[0]].worst[0]", axis)
        sizes.add(tuple(page.run("const c = document.querySelector('.pane canvas'); return [c.width, c.height]")))
    assert len(sizes) == 3


def test_blink_swaps_names_with_pictures_and_restores(page):
    page.press("2")
    before = (page.names(), page.picture(), page.view()["mode"])
    page.press("x")
    seen = set()
    assert page.until(lambda: seen.add(page.names()[0][:6]) or len(seen) == 2)
    assert seen == {"BEFORE", "AFTER "}
    assert page.run("return document.getElementById('blink').getAttribute('aria-pressed')") == "true"
    page.press("x")
    assert (page.names(), page.picture(), page.view()["mode"]) == before
    page.press("x")
    page.press("Escape")
    assert (page.names(), page.picture(), page.view()["blinking"]) == (before[0], before[1], False)


def test_blink_waits_for_the_hand_where_motion_is_unwelcome(page):
    page.media(prefers_reduced_motion="reduce")
    page.open(page.path)
    page.press("x")
    time.sleep(0.7)
    assert page.names()[0].startswith("BEFORE")
    page.press("x")
    assert page.names()[0].startswith("AFTER")
    page.press("Escape")
    assert len(page.names()) == 2


def test_address_remembers_the_view(page):
    page.press("2")
    page.run("perturbox.isolate(2)")
    page.press("a")
    page.run("perturbox.go(7)")
    number = page.run("return perturbox.meta.planes[1].numbers[7]")
    wanted = f"#mode=difference&plane=coronal&slice={number}&structure=spleen"
    assert page.until(lambda: page.run("return location.hash") == wanted)
    page.open(page.path, wanted)
    state = page.view()
    assert (state["mode"], state["plane"], state["slice"], state["only"]) == ("difference", 1, 7, 2)


def test_windows_and_label_styles_change_the_picture(page):
    page.press("4")
    pictures = [page.picture()]
    for _ in range(3):
        page.press("w")
        pictures.append(page.picture())
    assert len(set(pictures)) == 4
    page.press("w")
    assert page.picture() == pictures[0]
    styles = [page.picture()]
    for _ in range(3):
        page.press("g")
        styles.append(page.picture())
    assert len(set(styles)) == 3  # on the original scan both outlines look the same


def test_review_is_saved_with_the_hash_of_the_result(page, tmp_path):
    page.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.run(
        """const form = document.querySelector("#review form");
        form.mattered.value = "yes"; form.visible.value = "no"; form.note.value = "Would have missed it.";
        form.querySelector("button").click()"""
    )
    assert page.until(lambda: (tmp_path / "review.json").exists() and (tmp_path / "review.json").stat().st_size > 0)
    review = json.loads((tmp_path / "review.json").read_text())
    result = (page.path.parent / "result.json").read_bytes()
    assert review["result_sha256"] == hashlib.sha256(result).hexdigest()
    assert (review["mattered"], review["visible"], review["note"]) == ("yes", "no", "Would have missed it.")
    assert review["view"].startswith("mode=compare&plane=axial")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_reads_well(page, scheme):
    page.media(prefers_color_scheme=scheme)
    page.open(page.path)
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    time.sleep(0.3)  # colours fade in
    worst = page.run(CONTRAST)
    assert worst[0][0] >= 4.5, worst
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")


def test_print_shows_pictures_and_no_controls(page):
    page.media(media="print", prefers_color_scheme="dark")
    shown = "e => getComputedStyle(e).display !== 'none' && e.getClientRects().length > 0"
    assert (
        page.run(
            f"return [...document.querySelectorAll('button, select, input, canvas, textarea')].filter({shown}).length"
        )
        == 5
    )
    assert (
        page.run(f"return [...document.querySelectorAll('.pick')].filter({shown}).length") == 5
    )  # names of structures
    pictures = page.run(
        f"return [...document.querySelectorAll('#appendix img')].filter({shown}).map(i => [i.naturalWidth, i.alt])"
    )
    assert len(pictures) in (6, 9) and all(width > 0 for width, _ in pictures)
    assert any("SYNTHETIC" in alt for _, alt in pictures)
    assert page.run("return getComputedStyle(document.body).color") == "rgb(27, 31, 36)"


def test_without_scripts_the_figures_and_pictures_stand(reader, straight):
    reader.media()
    reader.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        reader.driver.get("about:blank")
        reader.driver.get(f"file://{straight}")
        root = reader.cdp("DOM.getDocument")["root"]["nodeId"]

        def heights(query):
            found = reader.cdp("DOM.querySelectorAll", nodeId=root, selector=query)["nodeIds"]
            sizes = []
            for node in found:
                try:
                    sizes.append(reader.cdp("DOM.getBoxModel", nodeId=node)["model"]["height"])
                except Exception as error:  # a node that isn't shown has no box
                    assert "Could not compute box model" in str(error)
                    sizes.append(0)
            return sizes

        assert min(heights("#appendix img")) > 100
        assert min(heights("#structures table, [data-chart]:not([hidden]) svg, noscript p")) > 0
        assert set(heights("#viewer, #review")) == {0}
    finally:
        reader.cdp("Emulation.setScriptExecutionDisabled", value=False)


def test_half_the_width_as_at_200_percent_zoom(page):
    page.cdp("Emulation.setDeviceMetricsOverride", width=640, height=500, deviceScaleFactor=2, mobile=False)
    try:
        page.open(page.path)
        assert page.run("return document.documentElement.scrollWidth") <= 640
        tops = page.run("return [...document.querySelectorAll('.pane')].map(p => p.getBoundingClientRect().top)")
        assert tops[1] > tops[0]  # one above the other
    finally:
        page.cdp("Emulation.clearDeviceMetricsOverride")


def test_flat_pictures(reader, tmp_path):
    path = write_report(make_result(tmp_path / "flat", flat=True))
    reader.media()
    reader.open(path)
    assert reader.names()[1].startswith("AFTER – SYNTHETIC")
    assert reader.run("return [...document.querySelectorAll('[data-plane]')].length") == 0
    assert reader.run("return [...document.querySelectorAll('.mark')].map(m => m.textContent).join('')") == ""
    assert "pixels differ here" in reader.run("return document.querySelectorAll('.info')[1].textContent")


def in_sight(reader, query):
    """(top, bottom, height of the window) of what is shown."""
    return reader.run(
        "const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.top, b.bottom, innerHeight]",
        query,
    )


def test_the_first_screen_shows_sentence_picture_and_key(reader, straight):
    for width, height in ((1440, 900), (1280, 720)):
        reader.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        try:
            reader.open(straight)
            for query in ("#verdict", "#views", "#key"):
                top, bottom, seen = in_sight(reader, query)
                assert top >= 0 and bottom <= seen == height, query
            state, opening = reader.view(), reader.run("return perturbox.meta.opening")
            assert (state["only"], state["plane"]) == (opening["structure"], opening["plane"])
            spleen = reader.run("return perturbox.meta.structures[arguments[0] - 1].name", state["only"])
            assert f"broke {spleen}" in reader.run("return document.querySelector('#verdict').textContent")
            worst = "return perturbox.meta.planes.find(p => p.axis === arguments[0]).worst[arguments[1]]"
            assert state["slice"] == reader.run(worst, state["plane"], state["only"])
            plane = reader.run("return perturbox.meta.planes.find(p => p.axis === perturbox.state.plane)")
            number, moved = plane["numbers"][state["slice"]], plane["ml_of"][state["only"] - 1][state["slice"]]
            tile = reader.run("return [...document.querySelectorAll('.card')].at(-2).innerText").split("\n")
            tile = [line for line in tile if line]
            assert tile == [
                f"Worst {plane['name']} slice",
                f"{number} of {plane['total']}",
                f"{moved:.{int(moved < 10)}f} ml of {spleen} differ",
            ]
            pressed = "return document.querySelector('#key [aria-pressed=true]').textContent"
            assert reader.run(pressed).lower() == spleen
        finally:
            reader.cdp("Emulation.clearDeviceMetricsOverride")


def test_what_a_click_below_changes_is_in_sight(page):
    page.run("document.querySelector('#structures').scrollIntoView()")
    assert page.until(lambda: page.run("return document.querySelector('#views').classList.contains('afloat')"))
    before = page.picture()
    page.run("document.querySelector('tr[data-structure] button').click()")
    top, bottom, seen = in_sight(page, "#views canvas")
    assert 0 <= top < bottom <= seen and page.picture() != before
    row = in_sight(page, "tr[data-structure] button")
    assert row[0] >= bottom  # the picture doesn't hide what was chosen
    page.run("scrollTo(0, 0)")
    assert page.until(lambda: page.run("return !document.querySelector('#views').classList.contains('afloat')"))


def test_the_key_isolates(page):
    page.run("[...document.querySelectorAll('#key button')].find(b => b.textContent === 'Liver').click()")
    assert page.view()["only"] == 1
    fill = "return getComputedStyle(document.querySelector('#key .square.s1 rect')).fill"
    assert (
        page.run(fill)
        == "rgb(0, 158, 115)"
        == "rgb({}, {}, {})".format(*page.run("return perturbox.meta.structures[0].rgb"))
    )


def drag(page, start, end, button=0):
    page.run(
        """const c = document.querySelector(".pane canvas"), b = c.getBoundingClientRect(), [s, e, button] = arguments;
        const at = ([x, y]) => ({clientX: b.left + x * b.width, clientY: b.top + y * b.height, button, bubbles: true});
        const send = (kind, place) => c.dispatchEvent(new PointerEvent(kind, at(place)));
        send("pointerdown", s); send("pointermove", e); send("pointerup", e); send("click", e);""",
        start, end, button,
    )  # fmt: skip


def test_zoom_and_pan_show_the_voxels_they_should(page):
    page.press("4")
    whole = page.picture()
    voxel = lambda text: [int(v) for v in re.search(r"voxel i (\d+), j (\d+), k (\d+)", text).groups()]  # noqa: E731
    left, right = voxel(page.point(0.25, 0.5)), voxel(page.point(0.75, 0.5))
    page.click("[data-zoom='1.5']")
    page.press("+")
    lens = page.run("return perturbox.state.lens")
    assert lens["zoom"] == pytest.approx(2.25)
    near = [voxel(page.point(x, 0.5)) for x in (0.25, 0.75)]
    assert abs(near[1][0] - near[0][0]) == pytest.approx(abs(right[0] - left[0]) / 2.25, abs=1)
    at = page.view()["at"]
    drag(page, (0.5, 0.5), (0.25, 0.5))  # what was in the middle lies a quarter to the left
    assert page.view()["at"] == at  # a drag is no click
    assert page.run("return perturbox.state.lens.x") == pytest.approx(lens["x"] + 0.25 / 2.25, abs=0.01)
    page.press("0")
    assert page.picture() == whole


def test_the_window_is_dragged(page):
    page.press("4")
    width, centre = page.run("const w = perturbox.meta.windows[0]; return [w.width, w.centre]")
    before = page.picture()
    drag(page, (0.4, 0.5), (0.6, 0.5), button=2)
    now = page.run("const w = perturbox.meta.windows[perturbox.state.window]; return [w.width, w.centre]")
    assert now[0] > width and now[1] == centre and page.picture() != before
    assert page.run("return document.querySelector('#window').selectedOptions[0].textContent").startswith("By hand")
    page.press("r")
    assert page.view()["window"] == 0


def test_the_scale_bar_is_true(page):
    for _ in range(2):
        bar, mm, canvas = page.run(
            """const [r, c] = [".ruler", "canvas"].map(q => document.querySelector(".pane " + q));
            const a = perturbox.meta.axes[2];
            return [r.getBoundingClientRect().width, parseFloat(r.textContent),
                    c.clientWidth / (a.mm * a.kept.length) * perturbox.state.lens.zoom]"""
        )
        assert bar == pytest.approx(mm * canvas, rel=0.02)
        page.press("+", "+", "+")


def test_three_planes_are_linked(page):
    page.press("6")
    axes = page.run("return [...document.querySelectorAll('.pane canvas')].map(c => +c.dataset.axis)")
    assert axes == [0, 1, 2]
    page.run("perturbox.isolate(0)")
    page.press("6")
    box = """const c = document.querySelectorAll(".pane canvas")[0], b = c.getBoundingClientRect();
    const at = {clientX: b.left + .3 * b.width, clientY: b.top + .6 * b.height, bubbles: true};
    c.dispatchEvent(new MouseEvent("click", at))"""
    page.run(box)
    _, y, x = page.view()["at"]
    shape = page.run("return perturbox.meta.shape")
    assert (x, y) == (pytest.approx(0.3 * shape[2], abs=2), pytest.approx(0.6 * shape[1], abs=2))
    said = page.run("return [...document.querySelectorAll('.pane .info')].map(i => i.textContent)")
    numbers = page.run("return perturbox.meta.planes.map(p => p.numbers[perturbox.state.at[p.axis]])")
    assert [int(text.split()[1]) for text in said] == numbers


def test_the_worst_picture_is_printed_first(page):
    page.media(media="print")
    page.cdp("Emulation.setDeviceMetricsOverride", width=718, height=1047, deviceScaleFactor=1, mobile=False)  # A4
    try:
        ends = page.run(
            "return [...document.querySelectorAll('#first img')].map(i => i.getBoundingClientRect().bottom)"
        )
        assert len(ends) == 3 and 100 < max(ends) < 1047
        ids = ["verdict", "first", "flow", "structures", "appendix"]
        assert (
            page.run("return [...document.querySelectorAll(arguments[0])].map(e => e.id)", "#" + ",#".join(ids)) == ids
        )
    finally:
        page.cdp("Emulation.clearDeviceMetricsOverride")


def legend_of(page):
    return page.run("return document.querySelector('#legend').textContent")


def test_heat_says_what_its_colours_mean(page):
    page.press("3")
    assert page.view()["heat"] == "signed"  # nearly all voxels change by as much as they may
    assert page.names() == ["HEAT – where the SYNTHETIC scan is brighter or darker"]
    assert "blue where the attack made the scan darker" in legend_of(page)
    page.press("h")
    assert "not how much it mattered" in legend_of(page)
    assert page.names() == ["HEAT – by how much the SYNTHETIC scan was altered"]


def test_heat_is_influence_where_the_attack_took_a_gradient(reader, tmp_path):
    reader.media()
    reader.open(write_report(make_result(tmp_path / "r", influence=True)), "#mode=heat&plane=axial&structure=spleen")
    assert "red where the change pushed the model towards what the attack is after" in legend_of(reader)
    assert reader.names() == ["HEAT – where the change pushed the model, on the SYNTHETIC scan"]
    page = reader.run("return perturbox.meta.planes[0].worst[2]")
    reds, blues = reader.run(
        """perturbox.go(arguments[0]);
        const c = document.querySelector(".pane canvas"), [w, h] = [c.width, c.height];
        const data = c.getContext("2d").getImageData(0, 0, w, h).data, s = perturbox.cut(0, arguments[0]);
        const rows = perturbox.meta.shape[1], columns = perturbox.meta.shape[2], found = [[], []];
        for (let p = 0; p < rows * columns; p++) {
          const [x, y] = [p % columns + .5, Math.floor(p / columns) + .5];
          const o = 4 * (Math.floor(y / rows * h) * w + Math.floor(x / columns * w));
          if (data[o] > data[o + 2] + 60) found[0].push(s.clean[p] !== s.adversarial[p]);
          if (data[o + 2] > data[o] + 60) found[1].push(s.clean[p] !== s.adversarial[p]);
        }
        return found.map(f => [f.length, f.filter(x => x).length / f.length])""",
        page,
    )
    assert reds[0] > 50 and reds[1] > 0.6 and blues[0] > 50 and blues[1] < 0.2
    reader.press("h")
    assert "blue where the attack made the scan darker" in legend_of(reader)
    reader.press("h", "h")
    assert reader.view()["heat"] == "influence" and "% of the largest" in reader.point(0.5, 0.5)


def test_a_photograph_is_shown_at_full_resolution_and_in_pixels(reader, tmp_path):
    folder = make_result(tmp_path / "flat", shape=(250, 240, 10), flat=True, repeat=4)
    reader.media()
    reader.open(write_report(folder))
    assert json.loads((folder / "result.json").read_text())["source"]["shape"] == [1000, 960]
    kept = reader.run("return perturbox.meta.axes.slice(1).map(a => a.kept)")
    assert all(np.diff(axis).tolist() == [1] * (len(axis) - 1) for axis in kept)  # every row and column
    text = reader.run("return document.querySelector('main').innerText")
    assert "pixels spleen" in text and not re.search(r"\d (mm|ml|cm²)", text[: text.index("Effort and provenance")])
    assert reader.run("return [...document.querySelectorAll('.ruler')].every(r => r.hidden)")


def test_of_sixty_structures_the_worst_are_told_and_the_rest_is_found(reader, tmp_path):
    reader.media()
    reader.open(write_report(many_structures(tmp_path / "many", 60)))
    rows = "[...document.querySelectorAll('tr[data-structure]')].filter(r => r.getClientRects().length)"
    assert reader.run(f"return {rows}.length") == 12
    assert reader.run("return document.querySelectorAll('#charts .legend li').length") == 5
    lines = "return [...document.querySelectorAll('[data-chart=axial] .line')].map(l => l.matches('.rest'))"
    assert sorted(reader.run(lines)) == [False] * 5 + [True] * 55
    assert reader.run("return document.querySelectorAll('#key > button').length") == 5
    reader.run("const f = document.querySelector('#filter'); f.value = '59'; f.dispatchEvent(new Event('input'))")
    assert reader.run(f"return {rows}.map(r => r.querySelector('button').textContent)") == ["Part 59"]
    reader.run("const f = document.querySelector('#filter'); f.value = ''; f.dispatchEvent(new Event('input'))")
    reader.click("#unfold")
    assert reader.run(f"return {rows}.length") == 60
