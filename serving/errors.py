"""The error tree: every expected refusal carries its HTTP status and OpenAI's error fields. Knows no framework.

AppError
├─ BadInput 400 ─ Unprocessable 422, ModerationBlocked 400 ├─ NotAuthenticated 401 ├─ Forbidden 403 ├─ NotFound 404
├─ MethodNotAllowed 405 ├─ RequestTimeout 408 ├─ Conflict 409 ─ JobCancelled ├─ TooLarge 413 ├─ UnsupportedMedia 415
├─ TryAgain ─ TooManyRequests 429, Unavailable 503
└─ JobFailed 500
"""

from models.errors import ModelError, UnknownModel


class AppError(Exception):
    """An answer to the caller that is not a success; `message` is safe to show."""

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class BadInput(AppError):
    status, type, code = 400, "invalid_request_error", "invalid_value"


class Unprocessable(BadInput):
    """The native routes' word for a body that does not fit its schema."""

    status = 422


class ModerationBlocked(BadInput):
    """What was sent, or what was made of it, is of a kind that the tenant's policy does not let through."""

    code = "moderation_blocked"

    def __init__(self, message: str, *, param: str | None = None, categories: tuple[str, ...] = ()) -> None:
        super().__init__(message, param=param)
        self.categories = categories


class NotAuthenticated(AppError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(AppError):
    status, type, code = 403, "invalid_request_error", "forbidden"


class NotFound(AppError):
    status, type, code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(AppError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class RequestTimeout(AppError):
    status, type, code = 408, "invalid_request_error", "body_timeout"


class Conflict(AppError):
    status, type, code = 409, "invalid_request_error", "conflict"


class JobCancelled(Conflict):
    """The job behind a synchronous call was called off while the caller waited."""

    code = "job_cancelled"

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Should-Retry": "false"}  # OpenAI's clients repeat a 409 by themselves: it would be made after all


class TooLarge(AppError):
    status, type, code = 413, "invalid_request_error", "body_too_large"


class UnsupportedMedia(AppError):
    status, type, code = 415, "invalid_request_error", "unsupported_content_type"


class TryAgain(AppError):
    """Refused for now; `retry_after_s` says when to come back."""

    def __init__(self, message: str, *, retry_after_s: int = 5, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class TooManyRequests(TryAgain):
    status, type, code = 429, "rate_limit_error", "queue_full"


class Unavailable(TryAgain):
    status, type, code = 503, "server_error", "unavailable"


class JobFailed(AppError):
    """The job behind a synchronous call ended in failure; `code` is the job's own."""

    status, type, code = 500, "server_error", "job_failed"


class BackendLost(Exception):
    """A backend died or went away before it answered; the job is not at fault and may run again."""


class LeaseLost(Exception):
    """Another Router owns the job now; whoever raises this must stop and write nothing more."""


def translate(error: ModelError) -> AppError:
    """Errors of the rooms below as answers to the caller."""
    if isinstance(error, UnknownModel):
        return NotFound(str(error), param="model", code="model_not_found")
    return AppError("The server could not complete the request.", code=type(error).__name__)
