"""A URL taken apart once, strictly. What is checked and what is called are the same parts, so no two parsers differ."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import urlsplit

from serving.outbound.errors import BadTarget

MAX_URL_CHARS = 2_048
DEFAULT_PORTS = {"http": 80, "https": 443}
# Printable ASCII without space. A backslash is a slash to some parsers; names in other scripts come as xn--….
URL_CHARS = re.compile(r"[!-\[\]-~]+")
HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
# To the C library these are numbers: 127.1, 0x7f.1, 0177.0.0.1 and 2130706433 all mean this machine.
NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads, as far as its text tells."""

    scheme: str
    host: str  # a name in lower case, or an address in its usual form
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"


def parse_target(url: str) -> Target:
    """Raises BadTarget for whatever is not a plain http or https URL."""
    if len(url) > MAX_URL_CHARS:
        raise BadTarget(f"The URL is longer than {MAX_URL_CHARS} characters.")
    if not URL_CHARS.fullmatch(url):
        raise BadTarget("The URL must be printable ASCII without spaces and backslashes.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadTarget("The URL cannot be read.") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise BadTarget("The URL must begin with http:// or https://.")
    if "@" in parts.netloc:
        raise BadTarget("The URL must not carry a user name or password.")
    if port == 0 or parts.netloc.endswith(":"):
        raise BadTarget("The URL's port must be between 1 and 65535.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = _host(parts.hostname or "", is_bracketed="[" in parts.netloc)
    return Target(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path)


def _host(host: str, *, is_bracketed: bool) -> str:
    try:
        if is_bracketed:
            if "%" in host:
                raise BadTarget("The URL's address must not name an interface.")
            return str(IPv6Address(host))
        if NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
            return str(IPv4Address(host))
    except AddressValueError as error:
        raise BadTarget("The URL's address must be written in its usual form.") from error
    if not HOST_NAME.fullmatch(host):
        raise BadTarget("The URL has no valid host name.")
    return host
