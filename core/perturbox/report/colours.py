"""Colours of structures and of change. Hue always means the structure; lost and added have their own two colours.

The first five separate for protan, deutan and tritan readers and stand out on black; further structures take
softer hues, and every series also has a line style. On white they are darkened until they reach 4.5:1.
"""

PALETTE = (
    "#009E73", "#56B4E9", "#F0E442", "#CC79A7", "#D55E00",
    "#C7B8EA", "#B6E34B", "#F5B7B1", "#8ED1C6", "#D9C08B", "#A9B4FF", "#E0E0E0",
)  # fmt: skip
ABSTAINED = "#E69F00"
LOST, ADDED, RELABELLED = "#56B4E9", "#E69F00", "#CC79A7"
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 3", "6 2 1 2 1 2", "3 5", "14 3 3 3", "5 5", "2 6")
INFERNO = ("#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4")


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def structure(number: int) -> str:
    """Colour of structure 1, 2, … on dark ground."""
    return PALETTE[(number - 1) % len(PALETTE)]


def dash(number: int) -> str:
    return DASHES[(number - 1) % len(DASHES)]


def contrast(a: str, b: str) -> float:
    """WCAG contrast ratio of two colours."""
    bright, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [c / 255 for c in rgb(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def on_light(colour: str, ground: str = "#f6f8fa", ratio: float = 4.5) -> str:
    """The same hue, darkened just enough to read on a light ground."""
    parts = rgb(colour)
    for percent in range(100, 0, -2):
        darker = "#" + "".join(f"{round(c * percent / 100):02x}" for c in parts)
        if contrast(darker, ground) >= ratio:
            return darker
    return "#000000"


def style_rules(structures: int) -> str:
    """CSS: classes s1, s2, … set --c to the structure's colour, darker on light ground, --fill as pictures paint it;
    and the heat legend."""
    light = "".join(f".s{n}{{--c:{on_light(structure(n))};--fill:{structure(n)}}}" for n in range(1, structures + 1))
    dark = "".join(f".s{n}{{--c:{structure(n)}}}" for n in range(1, structures + 1))
    heat = f".scale{{background:linear-gradient(90deg,{','.join(INFERNO)})}}"
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n{heat}\n"
