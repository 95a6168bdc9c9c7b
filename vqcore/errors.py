"""What can go wrong, by name."""


class InputError(ValueError):
    """An argument cannot be used; the message names it, says what came and what is allowed."""


class FormatError(ValueError):
    """A file or a message is damaged, or is not one of ours."""


class EmptyCellError(RuntimeError):
    """A cell owns no points and the chosen policy could not, or may not, repair it."""
