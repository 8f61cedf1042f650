"""What stops `darkroom serve` before or while it starts; the message says what to do about it."""


class StartupProblem(Exception):
    """The start cannot go on; exit code 2 says that the operator has to change something, 1 that a part failed."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
