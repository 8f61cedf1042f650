"""The one way to call a URL that a client named: the guard against being sent where clients must not reach."""

from serving.outbound.client import Answer, Outbound
from serving.outbound.errors import BadTarget, NoAnswer, OutboundError, TookTooLong, TooMuch

__all__ = ["Answer", "BadTarget", "NoAnswer", "Outbound", "OutboundError", "TookTooLong", "TooMuch"]
