"""Numbers as one reads them."""


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


def signed(value: float, decimals: int) -> str:
    """With its sign, unless it rounds to zero."""
    rounded = round(value, decimals)
    return fixed(abs(rounded), decimals) if rounded == 0 else ("+" if rounded > 0 else "") + fixed(rounded, decimals)


def size(value: float) -> str:
    """An amount as one reads it: whole above 10, one decimal below."""
    return fixed(value, 0 if abs(value) >= 10 else 1)
