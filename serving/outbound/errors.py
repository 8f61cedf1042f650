"""What can go wrong on the way to somebody else's server. Messages are safe to show: none tells what a name led to.

OutboundError
├─ BadTarget     the URL cannot be called: malformed, or it does not lead to a public address
├─ NoAnswer      no connection, no TLS, or no sensible answer
├─ TookTooLong   the time for the whole call is over
└─ TooMuch       the answer is larger than the caller takes
"""


class OutboundError(Exception):
    """A call to a client's URL did not come to a good end; `code` is its kind, for programs."""

    code = "outbound_failed"


class BadTarget(OutboundError):
    """The URL cannot be called: malformed, or it does not lead to a public address."""

    code = "bad_url"


class NoAnswer(OutboundError):
    """No connection, no TLS, or no sensible answer."""

    code = "no_answer"


class TookTooLong(OutboundError):
    """The time for the whole call is over."""

    code = "timeout"


class TooMuch(OutboundError):
    """The answer is larger than the caller takes."""

    code = "too_large"
