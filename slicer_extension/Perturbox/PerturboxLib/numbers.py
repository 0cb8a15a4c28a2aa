"""Numbers as one reads them."""

import math


def number(value: float | None, digits: int = 3) -> str:
    """At most `digits` significant digits, no exponent, a true minus sign; "–" for no value."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(f"{abs(value):e}".split("e")[1]))
    text = f"{value:.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def fixed(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def atLeast(value: float, decimals: int) -> str:
    """For "… or above": rounded down, for 0.9996 isn't 1.000 or above."""
    return fixed(math.floor(value * 10**decimals + 1e-9) / 10**decimals, decimals)


def atMost(value: float, decimals: int) -> str:
    """For "by at most …": rounded up."""
    return fixed(math.ceil(value * 10**decimals - 1e-9) / 10**decimals, decimals)


def signed(value: float, decimals: int) -> str:
    """With its sign, unless it rounds to zero."""
    rounded = round(value, decimals)
    return fixed(abs(rounded), decimals) if rounded == 0 else ("+" if rounded > 0 else "") + fixed(rounded, decimals)


def size(value: float) -> str:
    """An amount as one reads it: whole above 10, one decimal below."""
    return fixed(value, 0 if abs(value) >= 10 else 1)
