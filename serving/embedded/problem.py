"""What stops `darkroom serve` before or while it starts; the message says what to do about it."""

REFUSED, PART_FAILED = 2, 1


class StartupProblem(Exception):
    """The start cannot go on: refused, so the operator has to change something, or a part failed and its log tells."""

    def __init__(self, message: str, *, exit_code: int = REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
