"""Receives webhooks and writes each into the journal as it came. Judges nothing: the checks do.

Some deliveries are answered with an error the first time, so that the second attempt is tested as well.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from chaos_journal import Journal

REQUEST_TIMEOUT_S = 15.0
MAX_BODY_BYTES = 1_000_000


class HookReceiver:
    """An HTTP server on a free loopback port; the path names the tenant that registered it."""

    def __init__(self, journal: Journal, *, refuse_one_in: int) -> None:
        handler = type("Handler", (_Handler,), {"journal": journal, "refuse_one_in": refuse_one_in, "refused": set()})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="hooks", daemon=True)
        self._thread.start()

    def url(self, tenant: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{tenant}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    journal: Journal
    refuse_one_in: int
    refused: set[str]
    timeout = REQUEST_TIMEOUT_S

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length") or 0), MAX_BODY_BYTES)
        body = self.rfile.read(length).decode("utf-8", "replace")
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("webhook-")}
        status = self._status_for(headers.get("webhook-id", ""))
        # On disk before the sender hears that it came.
        self.journal.write("delivered", tenant=self.path.strip("/"), headers=headers, body=body, status=status)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the journal does."""

    def _status_for(self, webhook_id: str) -> int:
        is_chosen = sum(webhook_id.encode()) % self.refuse_one_in == 0
        if not is_chosen or webhook_id in self.refused:
            return 204
        self.refused.add(webhook_id)
        return 500
