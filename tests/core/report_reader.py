"""A headless Chromium with a report open, for tests: what a reader sees and does, in short words."""

import base64
import shutil
import time
import zlib

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --window-size=1280,1000"""
WAIT = 120

# Every visible text's contrast with the ground behind it, worst first; texts over the black canvases stand on black.
CONTRAST = """
const parse = c => c.match(/[\\d.]+/g).map(Number);
const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = c.slice(0, 3).map(linear);
                     return .2126 * r + .7152 * g + .0722 * b; };
const solid = c => c.length < 4 || c[3] > .99;
const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
                                                       if (solid(c)) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll("main *")].filter(e => e.getClientRects().length
  && getComputedStyle(e).visibility === "visible" && !e.matches("script, option, title, canvas")
  && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
  const style = getComputedStyle(e), color = parse(e.closest("svg") ? style.fill : style.color);
  const a = light(color), b = light(ground(e));
  return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 60)];
}).sort((p, q) => p[0] - q[0]).slice(0, 5);
"""


class Reader:
    """A browser with a report open, and a reader's hands."""

    def __init__(self, profile):
        selenium = pytest.importorskip("selenium", reason="needs selenium: pip install selenium (extra `dev`)")
        if not (CHROMIUM and DRIVER):
            pytest.skip("no Chromium found; on Debian and Ubuntu: apt-get install chromium chromium-driver")
        from selenium.webdriver import Chrome, ChromeOptions
        from selenium.webdriver.chrome.service import Service

        assert selenium
        options = ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options=options, service=Service(DRIVER))
        self.driver.set_page_load_timeout(WAIT)
        self.driver.set_script_timeout(WAIT)
        self.path = None

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def cdp(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def open(self, path, view=""):
        self.driver.get("about:blank")
        self.driver.get(f"file://{path}{view}")
        self.path = path
        failure = self.driver.execute_async_script(
            "const done = arguments[0];"
            "perturbox.ready.then(() => requestAnimationFrame(() => done(null)), e => done(String(e)))"
        )
        assert failure is None

    def media(self, media="", **features):
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", media=media, features=listed)

    def press(self, *keys):
        for key in keys:
            self.run("dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", key)

    def view(self):
        return self.run("const s = perturbox.state; return {...s, slice: s.at && s.at[s.plane]}")

    def names(self):
        return self.run(
            "return [...document.querySelectorAll('.pane:not([hidden]) .name')].map(name => name.textContent)"
        )

    def click(self, query):
        self.run("document.querySelector(arguments[0]).click()", query)

    def choose(self, select, value):
        self.run("const s = document.querySelector(arguments[0]); s.value = arguments[1]", select, value)
        self.run("document.querySelector(arguments[0]).dispatchEvent(new Event('change'))", select)

    def point(self, across, down):
        """The read-out at a place of the first pane, in fractions of its width and height."""
        return self.run(
            """const c = document.querySelector(".pane canvas"), b = c.getBoundingClientRect();
            const clientX = b.left + b.width * arguments[0], clientY = b.top + b.height * arguments[1];
            c.dispatchEvent(new PointerEvent("pointermove", {clientX, clientY}));
            return document.getElementById("readout").textContent""",
            across,
            down,
        )

    def picture(self):
        """Checksum of what the first pane shows."""
        data = self.run("return document.querySelector('.pane:not([hidden]) canvas').toDataURL()")
        return zlib.crc32(base64.b64decode(data.split(",")[1]))

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False
