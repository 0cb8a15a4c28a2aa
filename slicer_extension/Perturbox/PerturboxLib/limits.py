"""The limit's unit: what the slider is in, and what its value means for a scan. Nothing here asks an MR for HU."""

from slicer.i18n import tr as _

from .numbers import number

UNITS = ("native", "sigma", "percent")  # as the server names them
WINDOW = 400.0  # HU; the soft-tissue window that a change is compared with


def plain(own: str) -> str:
    """The unit of a model's scans as one reads it."""
    return _("intensity units") if own == "intensity" else own


def title(unit: str, own: str) -> str:
    """A unit in the selector; own: the unit of the model's scans."""
    return {"sigma": _("× scan's noise (σ)"), "percent": _("% of scan's range")}.get(unit, plain(own))


def suffix(unit: str, own: str, norm: str) -> str:
    """What stands behind the slider's number."""
    if norm == "l0":
        return " %"
    name = {"sigma": "σ", "percent": "%"}.get(unit, plain(own))
    return f" {name} RMS" if norm == "l2" else f" {name}"


def step(unit: str, own: str) -> float:
    """Of the slider: a CT counts in whole HU."""
    return 1.0 if unit == "native" else 0.1


def span(unit: str, own: str, norm: str) -> tuple:
    """Least and largest value of the slider; MR counts to thousands."""
    if unit != "native":
        return 0.1, 32.0
    return (1.0, 32.0) if own == "HU" or norm == "l0" else (1.0, 1000.0)


def usual(unit: str) -> float:
    """Where the slider starts in a unit."""
    return {"sigma": 1.0, "percent": 2.0}.get(unit, 4.0)


def note(eps: float, norm: str, unit: str, own: str, sigma) -> str:
    """What a limit means for this scan; sigma: its noise in its own unit, None: not looked for yet, 0: not
    available."""
    if norm == "l0":
        return _("{share} % of the voxels may change, each by any amount the scan's own range allows.").format(
            share=number(eps)
        )
    kind = "" if norm == "linf" else _(" (root mean square over the scan)")
    if unit == "percent":
        return _("of the scan's 1–99 % range; the server measures it") + kind
    if sigma is None:
        noise = _("Noise not measured yet: press Segment only")
    elif not sigma:
        noise = _("This scan's noise is not available")
        noise += _("; choose % of its range") if unit == "sigma" else ""
    elif unit == "sigma":
        noise = _("= {size} {own} in this scan").format(size=number(eps * sigma, 3), own=plain(own))
    else:
        noise = _("= {number} × this scan's noise").format(number=number(eps / sigma, 2))
    size = eps * sigma if unit == "sigma" and sigma else eps if unit == "native" else None
    share = (
        _(" · {number} % of a W {width:.0f} window").format(number=number(100 * size / WINDOW, 2), width=WINDOW)
        if own == "HU" and size is not None
        else ""
    )
    return f"{noise}{share}{kind}"
