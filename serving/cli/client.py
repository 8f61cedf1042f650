"""A small client of Darkroom's HTTP API: where it is, which key opens it, and every refusal as a sentence."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlsplit

import httpx

from configs.settings import Settings, SettingsError, load_settings
from serving.cli.errors import ClientError as ClientError
from serving.cli.errors import Lost as Lost
from serving.cli.errors import Refused as Refused
from serving.cli.errors import Unreachable as Unreachable

REQUEST_TIMEOUT_S = 30.0
DOWNLOAD_TIMEOUT_S = 120.0
UPLOAD_TIMEOUT_S = 300.0  # the server answers after an engine has looked at the file
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}
NO_KEY_HELP = "Pass --key or set DARKROOM_API_KEY; on the server's own machine the key is in {path}."


@dataclass(frozen=True, slots=True)
class Connection:
    """Address of the API and the key for it; `key_help` says what to do when the key is missing or wrong."""

    url: str
    key: str | None = field(repr=False)
    key_help: str


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body: plain fields, and files read as they are sent."""

    fields: Mapping[str, str]
    files: Mapping[str, BinaryIO]


def find_connection(url: str | None, key: str | None, *, env: Mapping[str, str] | None = None) -> Connection:
    """Explicit values first, then what this machine's settings say; raises SettingsError when those are broken."""
    try:
        settings = load_settings(env)
    except SettingsError:
        # Whoever names address and key needs no local settings, so broken ones must not stand in the way.
        if url and key:
            return Connection(url.rstrip("/"), key, "The key came from --key or DARKROOM_API_KEY.")
        raise
    chosen_url = (url or settings.public_url).rstrip("/")
    if not _is_address(chosen_url):
        raise ClientError(f"{chosen_url!r} is not an address; it should look like http://127.0.0.1:8000")
    if key:
        return Connection(chosen_url, key, "The key came from --key or DARKROOM_API_KEY.")
    help_text = NO_KEY_HELP.format(path=settings.state_dir / "admin-key")
    # The admin key of this machine's server must not travel to whatever address was typed.
    is_ours = chosen_url == settings.public_url or urlsplit(chosen_url).hostname in LOOPBACK_HOSTS
    return Connection(chosen_url, admin_key(settings) if is_ours else None, help_text)


def admin_key(settings: Settings) -> str | None:
    """The first admin key of this machine's server, where this user may read it."""
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    try:
        return (settings.state_dir / "admin-key").read_text("ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


class Client:
    """Calls the API and gives parsed JSON, or raises ClientError. Every call has a time limit."""

    def __init__(self, connection: Connection, *, transport: httpx.BaseTransport | None = None) -> None:
        self.connection = connection
        self._transport = transport
        self._http = self.connect_to(connection.url, timeout_s=REQUEST_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int | None) -> dict[str, Any]:
        return self._call("GET", path, params=params)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        return self._accept(self._send("POST", path, body=body, timeout_s=timeout_s))

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("PATCH", path, body=body)

    def delete(self, path: str, **params: str | None) -> dict[str, Any]:
        return self._call("DELETE", path, params=params)

    def upload(
        self, path: str, files: Mapping[str, Path], fields: Mapping[str, str], *, timeout_s: float = UPLOAD_TIMEOUT_S
    ) -> dict[str, Any]:
        """A form with files, each sent as it is read."""
        try:
            with ExitStack() as opened:
                form = Form(fields, {name: opened.enter_context(file.open("rb")) for name, file in files.items()})
                reply = self._send("POST", path, form=form, timeout_s=timeout_s)
        except OSError as error:
            raise ClientError(f"The file cannot be read: {error}.") from error
        return self._accept(reply)

    @contextmanager
    def lines(self, path: str, *, silence_s: float) -> Iterator[Iterator[str]]:
        """An answer that is read as it comes, such as a stream of events, with no more than `silence_s` between."""
        url, key = self.connection.url + path, self.connection.key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with self.connect_to(url, timeout_s=silence_s) as http, http.stream("GET", url, headers=headers) as reply:
                if not reply.is_success:
                    reply.read()
                    raise self._refusal(reply)
                yield reply.iter_lines()
        except httpx.HTTPError as error:
            raise Unreachable(f"The connection to {self.connection.url} broke ({error}).") from error

    def locate(self, path: str, **params: str | None) -> str:
        """Where the server sends us for a file: a pre-signed URL."""
        reply = self._send("GET", path, params={name: value for name, value in params.items() if value is not None})
        if reply.is_redirect:
            return str(reply.headers["Location"])
        self._accept(reply)
        raise ClientError(f"{self.connection.url} gave no address for {path}.")

    def save(self, url: str, path: Path) -> str:
        """Writes what lies at a pre-signed URL to a new file; its SHA-256 in hex."""
        digest = hashlib.sha256()
        try:
            with self.connect_to(url, timeout_s=DOWNLOAD_TIMEOUT_S) as http, http.stream("GET", url) as reply:
                if reply.status_code != httpx.codes.OK:
                    message = f"The object store at {origin_of(url)} answered {reply.status_code} for the file."
                    raise Refused(message, status=reply.status_code, code=None)
                with path.open("xb") as file:
                    for chunk in reply.iter_bytes():
                        digest.update(chunk)
                        file.write(chunk)
        except httpx.HTTPError as error:
            raise Unreachable(f"The file could not be fetched from {origin_of(url)}: {error}.") from error
        except OSError as error:
            raise ClientError(f"The file cannot be written: {error}.") from error
        return digest.hexdigest()

    def download(self, url: str) -> bytes:
        """A pre-signed URL's bytes."""
        try:
            with self.connect_to(url, timeout_s=DOWNLOAD_TIMEOUT_S) as http:
                reply = http.get(url)
        except httpx.HTTPError as error:
            raise Unreachable(f"The picture could not be fetched from {origin_of(url)}: {error}.") from error
        if reply.status_code != httpx.codes.OK:
            raise Refused(
                f"The object store at {origin_of(url)} answered {reply.status_code} for the picture.",
                status=reply.status_code,
                code=None,
            )
        return reply.content

    def connect_to(self, url: str, *, timeout_s: float) -> httpx.Client:
        """Without our key: the object store refuses two kinds of credentials, and is not us."""
        # A proxy from the environment cannot reach a server on this machine.
        is_local = urlsplit(url).hostname in LOOPBACK_HOSTS
        return httpx.Client(timeout=timeout_s, transport=self._transport, trust_env=not is_local)

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        query = {name: value for name, value in (params or {}).items() if value is not None}
        return self._accept(self._send(method, path, params=query, body=body))

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        form: Form | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> httpx.Response:
        base, key = self.connection.url, self.connection.key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            request = self._http.build_request(
                method,
                base + path,
                params=params,
                json=body,
                data=form.fields if form else None,
                files=form.files if form else None,
                headers=headers,
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, REQUEST_TIMEOUT_S)),
            )
        except ValueError as error:
            # NaN is no JSON, and argument bytes that are no UTF-8 cannot be sent.
            raise ClientError(f"The request cannot be sent: {error}.") from error
        try:
            return self._http.send(request)
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise Lost(f"{base} did not answer within {timeout_s:.0f} s.") from error
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            raise Lost(f"The connection to {base} broke before the answer came ({error}).") from error
        except httpx.HTTPError as error:
            raise Unreachable(
                f"No Darkroom answers at {base} ({error}). Start one with `darkroom serve`, "
                "or name another with --url or DARKROOM_URL."
            ) from error

    def _accept(self, reply: httpx.Response) -> dict[str, Any]:
        if reply.is_success:
            return _parse(reply, self.connection.url)
        raise self._refusal(reply)

    def _refusal(self, reply: httpx.Response) -> Refused:
        message, code = _error_of(reply)
        where = self.connection.url
        retry_after_s = reply.headers.get("Retry-After")
        again = f" Try again in {retry_after_s} s." if retry_after_s else " Try again in a moment."
        match reply.status_code:
            case 401 if not self.connection.key:
                text = f"{where} wants an API key, and there is none. {self.connection.key_help}"
            case 401:
                text = f"{where} does not accept the API key: {message} {self.connection.key_help}"
            case 403:
                text = f"This key may not do that: {message}"
            case 404 if code is None:
                text = f"{where} knows no such address: is that a Darkroom, and as new as this command? {message}"
            case 429:
                text = f"Darkroom takes no more for now: {message}{again}"
            case 503 if code != "still_running":
                text = f"Darkroom is not ready: {message}{again} {where}/health/ready says what is missing."
            case _:
                text = message
        may_come_back = retry_after_s is not None and retry_after_s.isascii() and retry_after_s.isdigit()
        pause_s = int(retry_after_s) if retry_after_s is not None and may_come_back else None
        return Refused(text, status=reply.status_code, code=code, retry_after_s=pause_s)


def segment(text: str) -> str:
    """An id as one path segment, whatever was typed."""
    return quote(text, safe="")


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host) and (parsed.port or 0) <= 65_535


def _parse(reply: httpx.Response, base: str) -> dict[str, Any]:
    try:
        parsed = reply.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ClientError(f"{base} does not speak Darkroom's API: {origin_of(str(reply.url))} sent no JSON object.")
    return parsed


def _error_of(reply: httpx.Response) -> tuple[str, str | None]:
    """The message and code of an OpenAI-shaped error body; anything else is quoted shortly, without a code."""
    try:
        error = reply.json()["error"]
        return str(error["message"]), str(error.get("code") or error.get("type") or "error")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"HTTP {reply.status_code} from {reply.request.url}: {reply.text[:200].strip() or 'empty body'}", None


def origin_of(url: str) -> str:
    """Scheme and host: a pre-signed URL itself is as good as a key, and is not told."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
