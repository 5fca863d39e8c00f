"""The exception a user is meant to read."""

_LOGIN = r"(https?://)(?:(?!https?://).)*@|(\w+://)[^/\s@]*:[^/\s@]*@"
"""Of a web address, all up to the last `@`: a password may hold what ought to have been quoted."""


class DriftworkError(Exception):
    """A mistake that the user can mend. Its message is one line that names what is wrong and what is allowed; the login
    in an address is left out of it."""

    def __str__(self) -> str:
        return without_login(super().__str__())


class AgreedError(DriftworkError):
    """One that all ranks raise alike, so that one of them says it."""


def without_login(text: str) -> str:
    """Return `text` with addresses such as `http://USER:PASSWORD@HOST` shortened to `http://HOST`."""
    import re  # it is half of what the entry of a command takes to load

    return re.sub(_LOGIN, r"\1\2", text) if "@" in text else text
