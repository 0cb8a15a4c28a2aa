"""The one error that users cause and can put right; light, so that a refusal needs no array library."""


class InputError(ValueError):
    """The user's input can't be used; the message is one sentence that says what is wrong and what to do."""
