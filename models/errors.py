"""The exception a user is meant to read."""


class DriftworkError(Exception):
    """A mistake that the user can mend. Its message is one line that names what is wrong and what is allowed."""


class AgreedError(DriftworkError):
    """One that all ranks raise alike, so that one of them says it."""
