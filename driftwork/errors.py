"""Exceptions whose message is for the user."""

_LOGIN = r"(https?://)(?:(?!https?://).)*@|(\w+://)[^/\s@]*:[^/\s@]*@"
"""The login in a web address, up to the last `@`: a password may contain unquoted special characters."""


class DriftworkError(Exception):
    """Error for a mistake that the user can correct. Its message is one line: what is wrong, where, and what to do.
    Logins in addresses are left out of it."""

    def __str__(self) -> str:
        return without_login(super().__str__())


class AgreedError(DriftworkError):
    """An error that all ranks raise alike, so that only rank 0 prints it."""


def unwritable(where: object, reason: object) -> DriftworkError:
    """Return the error for a file or folder that cannot be written."""
    return DriftworkError(f"{where}: cannot be written: {reason}; free space there, or make it writable")


def without_login(text: str) -> str:
    """Return `text` with addresses such as `http://USER:PASSWORD@HOST` shortened to `http://HOST`."""
    import re  # half of the time that the entry of a command takes to load

    return re.sub(_LOGIN, r"\1\2", text) if "@" in text else text
