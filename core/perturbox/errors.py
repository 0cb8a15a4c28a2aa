"""The one error that users cause and can put right, and what helps them; light: no array library for a refusal."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """The user's input can't be used; the message is one sentence that says what is wrong and what to do."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The end of a sentence about an unknown name: the nearest known one as a question, or `otherwise` where none is
    near."""
    plain = {one.lower().replace("_", "-"): one for one in known}
    near = get_close_matches(name.lower().replace("_", "-"), plain, 1)
    return f"did you mean '{plain[near[0]]}'?" if near else otherwise
