"""What can go wrong on a call of the API, each as a sentence for the user.

ClientError
├─ Unreachable ─ Lost
└─ Refused
"""


class ClientError(Exception):
    """What the user is told, in full; the command then ends with exit code 1."""


class Unreachable(ClientError):
    """Nobody answered: refused, cut off, or too slow."""


class Lost(Unreachable):
    """Cut off or too slow after we had connected: the server may have taken the request."""


class Refused(ClientError):
    """The server answered with an error."""

    def __init__(self, message: str, *, status: int, code: str | None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s
