"""One kind of error for what a user can mend: one line that says expected, got, remedy."""


class UserError(ValueError):
    """A mistake in the input; its message is the whole report, so the CLI prints it bare."""


def expected(what: object, got: object, remedy: str) -> UserError:
    """The line every user error has: what was expected, what came, and what to do.

    Returns the error for the caller to raise, so that the raise stands where the fault is found.
    """
    return UserError(f"expected {what}, got {got}; {remedy}")
