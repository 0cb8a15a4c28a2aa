"""Colours, names and terminology of structures. Hue always means the structure; lost and added have their own.

The first five colours stay apart for protan, deutan and tritan readers and stand out on black; every series also has a
line style. Codes are those of Slicer's general anatomy list.
"""

import colorsys

PALETTE = (
    "#009E73", "#56B4E9", "#F0E442", "#CC79A7", "#D55E00",
    "#C7B8EA", "#B6E34B", "#F5B7B1", "#8ED1C6", "#D9C08B", "#A9B4FF", "#E0E0E0",
)  # fmt: skip
ABSTAINED = "#E69F00"  # of a certificate, as on its page
LOST, ADDED, RELABELLED = "#56B4E9", "#E69F00", "#CC79A7"
BEFORE, AFTER, CURSOR, LIMIT = "#8FC1E8", "#F2C26B", "#C2185B", "#666666"
LINE_STYLES = ("Solid", "Dash", "Dot", "DashDot", "DashDotDot")

CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
REGIONS = "Anatomic codes - DICOM master list"
ANATOMY, TISSUE = ("123037004", "Anatomical Structure"), ("85756007", "Tissue")
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
CODES = {
    "adrenal gland": "23451007", "aorta": "15825003", "bile duct": "28273000", "bladder": "89837001",
    "brain": "12738006", "clavicle": "51299004", "colon": "71854001", "duodenum": "38848004", "esophagus": "32849002",
    "gallbladder": "28231008", "heart": "80891009", "kidney": "64033007", "liver": "10200004",
    "lower lobe of lung": "90572001", "lung": "39607008", "mandible": "91609006",
    "middle lobe of right lung": "72481006", "pancreas": "15776009", "prostate": "41216001", "rib": "113197003",
    "skull": "89546000", "small intestine": "30315005", "spinal cord": "2748008", "spleen": "78961009",
    "sternum": "56873002", "stomach": "69695003", "thyroid": "69748006", "trachea": "44567001",
    "upper lobe of lung": "45653009", "uterus": "35039007",
}  # fmt: skip
PAIRED = {"adrenal gland", "clavicle", "kidney", "lower lobe of lung", "lung", "upper lobe of lung"}
TISSUES = {"artery": "51114001", "body fat": "248300009", "bone": "272673000", "muscle": "71616004", "vein": "29092000"}
SYNONYMS = {
    "urinary bladder": "bladder", "small bowel": "small intestine", "clavicula": "clavicle", "oesophagus": "esophagus",
    "gall bladder": "gallbladder", "thyroid gland": "thyroid", "fat": "body fat", "bones": "bone", "lungs": "lung",
    "kidneys": "kidney", "muscles": "muscle", "lung upper lobe": "upper lobe of lung",
    "lung lower lobe": "lower lobe of lung", "lung middle lobe": "middle lobe of right lung",
}  # fmt: skip


def readable(name: str) -> str:
    """A label's name as one reads it: "kidney_left" -> "Kidney left"."""
    words = " ".join(name.replace("_", " ").split())
    return words[:1].upper() + words[1:]


def rgb(colour: str) -> tuple[float, float, float]:
    """Red, green, blue in [0, 1] of "#RRGGBB"."""
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))  # type: ignore[return-value]


def structureColour(number: int) -> str:
    """Colour of structure 1, 2, … on dark ground; beyond the palette bright hues a golden section apart."""
    if number <= len(PALETTE):
        return PALETTE[number - 1]
    light = colorsys.hls_to_rgb((number * 0.618034) % 1.0, 0.72, 0.65)
    return "#" + "".join(f"{round(255 * part):02X}" for part in light)


def onLight(colour: str, ratio: float = 4.2) -> str:
    """The same hue, darkened just enough to stand out on white by this contrast ratio (WCAG)."""
    parts = rgb(colour)
    for percent in range(100, 0, -2):
        darker = [part * percent / 100 for part in parts]
        if 1.05 / (_luminance(darker) + 0.05) >= ratio:
            return "#" + "".join(f"{round(255 * part):02X}" for part in darker)
    return "#000000"


def lineStyle(number: int) -> str:
    """Line style of structure 1, 2, …: a second sign beside its colour."""
    return LINE_STYLES[(number - 1) % len(LINE_STYLES)]


def terminology(name: str) -> str:
    """Slicer's terminology entry of a label's name; an unknown one is Tissue, which says nothing wrong."""
    category, kind, side = _coded(name)
    parts = [CONTEXT, _code(category), _code(kind), _code(side), REGIONS, "^^", "^^"]
    return "~".join(parts)


def _coded(name: str) -> tuple[tuple[str, str], tuple[str, str], tuple[str, str] | None]:
    words = name.replace("_", " ").lower().split()
    sides = [word for word in words if word in SIDES]
    plain = " ".join(word for word in words if word not in SIDES)
    plain = SYNONYMS.get(plain, plain)
    if words[:1] in (["rib"], ["ribs"]):
        plain = "rib"
    side = SIDES[sides[0]] if len(sides) == 1 and plain in PAIRED else None
    if plain in CODES:
        return ANATOMY, (CODES[plain], plain.capitalize()), side
    if plain in TISSUES:
        return TISSUE, (TISSUES[plain], plain.capitalize()), None
    return TISSUE, TISSUE, None


def _code(entry: tuple[str, str] | None) -> str:
    return f"SCT^{entry[0]}^{entry[1]}" if entry else "^^"


def _luminance(parts) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
