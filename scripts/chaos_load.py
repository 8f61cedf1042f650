"""The clients of a chaos run: each order is sent as its way says, where a key makes that safe again and again."""

import base64
import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
from chaos_journal import Journal, Order, Way
from chaos_pictures import MAX_IMAGES, KnownPicture

ORDER_TIMEOUT_S = 240.0  # after it a client gives up
CALL_TIMEOUT_S = 60.0  # of one attempt
HANG_UP_S = 0.3
PAUSE_S, LONGEST_PAUSE_S = 0.4, 3.0  # between attempts; grows while they fail
CANCEL_WITHIN_S = 1.0
DOWNLOAD_TRIES = 3
FINAL = {"succeeded", "failed", "cancelled"}
NATIVE, OPENAI = "/v1/generate/image", "/v1/images/generations"
# Way → its share of the load, and how likely it carries a key.
WAYS: Mapping[Way, tuple[int, float]] = {
    "wait_b64": (25, 0.6),
    "wait_url": (15, 0.6),
    "async": (40, 0.85),
    "twin": (8, 1.0),
    "cancel": (7, 0.8),
    "hang_up": (5, 0.0),
}


def draw_orders(
    rng: random.Random, *, prefix: str, count: int, tenants: Sequence[str], num_pictures: int, window_s: float
) -> list[Order]:
    """What the clients will want, in the order of time."""
    ways, shares = list(WAYS), [share for share, _ in WAYS.values()]
    moments = sorted(rng.uniform(0, window_s) for _ in range(count))
    orders = []
    for index, at_s in enumerate(moments):
        way = rng.choices(ways, shares)[0]
        orders.append(
            Order(
                id=f"{prefix}-{index:03d}",
                tenant=rng.choice(tenants),
                picture=rng.randrange(num_pictures),
                num_images=MAX_IMAGES if rng.random() < 0.15 else 1,
                way=way,
                is_keyed=rng.random() < WAYS[way][1],
                at_s=at_s,
            )
        )
    return orders


class Clients:
    """Sends orders to one server. Safe to use from many threads."""

    def __init__(
        self,
        url: str,
        keys: Mapping[str, str],
        hooks: Mapping[str, str],
        pictures: Sequence[KnownPicture],
        journal: Journal,
    ) -> None:
        """`hooks`: tenant → the webhook_url that its jobs carry."""
        self._keys = keys
        self._hooks = hooks
        self._pictures = pictures
        self._journal = journal
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
        self._http = httpx.Client(base_url=url, limits=limits, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def run(self, order: Order, *, timeout_s: float = ORDER_TIMEOUT_S, priority: str = "normal") -> bool:
        """Sends one order and stays with it to its end; whether it came to the end that its way wants."""
        deadline_s = time.monotonic() + timeout_s
        self._journal.write(
            "ordered",
            order=order.id,
            tenant=order.tenant,
            picture=order.picture,
            num_images=order.num_images,
            way=order.way,
            is_keyed=order.is_keyed,
        )
        body = self._pictures[order.picture].body(order.num_images)
        body |= {"metadata": {"order": order.id}, "priority": priority}
        if (hook := self._hooks.get(order.tenant)) is not None:
            body["webhook_url"] = hook
        if order.way == "hang_up":
            self._hang_up(order, body)
            return True
        if order.way in {"wait_b64", "wait_url"}:
            return self._wait(order, body, deadline_s)
        return self._submit(order, body, deadline_s)

    def _wait(self, order: Order, body: dict[str, Any], deadline_s: float) -> bool:
        """OpenAI's call: the pictures come in the answer, or as addresses."""
        wants_bytes = order.way == "wait_b64"
        body["response_format"] = "b64_json" if wants_bytes else "url"
        reply = self._send(order, OPENAI, body, deadline_s)
        if reply is None:
            return False
        self._journal.write("accepted", order=order.id, job=reply["job_id"])
        if wants_bytes:
            contents = [base64.b64decode(image["b64_json"]) for image in reply["data"]]
        else:
            contents = [data for image in reply["data"] if (data := self._download(image["url"])) is not None]
        digests = [hashlib.sha256(data).hexdigest() for data in contents]
        self._journal.write("answered", order=order.id, job=reply["job_id"], sha256=digests, num=len(reply["data"]))
        return True

    def _submit(self, order: Order, body: dict[str, Any], deadline_s: float) -> bool:
        """The native call: an id now, the job later."""
        if order.way == "twin":
            with ThreadPoolExecutor(2) as pool:
                replies = list(pool.map(lambda _: self._send(order, NATIVE, body, deadline_s), range(2)))
        else:
            replies = [self._send(order, NATIVE, body, deadline_s)]
        ids = [reply["id"] for reply in replies if reply is not None]
        for job_id in ids:
            self._journal.write("accepted", order=order.id, job=job_id)
        if not ids:
            return False
        if order.way == "cancel":
            # The same moment in every run of the same seed.
            time.sleep(random.Random(order.id).uniform(0, CANCEL_WITHIN_S))
            self._send(order, f"/v1/jobs/{ids[0]}/cancel", None, deadline_s)
        return self._follow(order, ids[0], deadline_s)

    def _hang_up(self, order: Order, body: dict[str, Any]) -> None:
        """Asks and does not wait for the answer."""
        try:
            reply = self._http.post(OPENAI, json=body, headers=self._headers(order), timeout=HANG_UP_S)
        except httpx.HTTPError as error:
            self._journal.write("unanswered", order=order.id, error=repr(error), is_meant=True)
            return
        if reply.is_success:
            self._journal.write("accepted", order=order.id, job=reply.json()["job_id"])

    def _follow(self, order: Order, job_id: str, deadline_s: float) -> bool:
        while time.monotonic() < deadline_s:
            try:
                reply = self._http.get(f"/v1/jobs/{job_id}", headers=self._headers(order), timeout=CALL_TIMEOUT_S)
                job = reply.json() if reply.is_success else {}
            except (httpx.HTTPError, ValueError):
                job = {}  # the server is away, or half there; asking again costs nothing
            if job.get("status") in FINAL:
                code = (job.get("error") or {}).get("code")
                self._journal.write("ended", order=order.id, job=job_id, status=job["status"], code=code)
                return bool(job["status"] == "succeeded")
            time.sleep(PAUSE_S)
        return False

    def _send(self, order: Order, path: str, body: dict[str, Any] | None, deadline_s: float) -> dict[str, Any] | None:
        """The answer of a POST; None when it was refused for good, or broke where nobody can know what became of it."""
        # Whoever cancels may do so as often as it takes.
        may_repeat = order.is_keyed or body is None
        pause_s = PAUSE_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            pause_s = min(LONGEST_PAUSE_S, 1.3 * pause_s)
            try:
                timeout_s = min(CALL_TIMEOUT_S, left_s)
                reply = self._http.post(path, json=body, headers=self._headers(order), timeout=timeout_s)
            except httpx.HTTPError as error:
                self._journal.write("unanswered", order=order.id, error=repr(error), path=path)
                if not may_repeat:
                    return None
            else:
                if reply.is_success:
                    parsed: dict[str, Any] = reply.json()
                    return parsed
                code = error_code(reply)
                detail: dict[str, Any] = {
                    "status": reply.status_code,
                    "code": code,
                    "text": reply.text[:200],
                    "path": path,
                }
                self._journal.write("refused", order=order.id, **detail)
                if not may_come_again(reply.status_code, code, is_keyed=may_repeat):
                    return None
                if reply.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    pause_s = min(float(reply.headers.get("Retry-After") or 1), 5.0)
            time.sleep(pause_s)
        self._journal.write("unanswered", order=order.id, error="gave up", path=path)
        return None

    def _download(self, url: str) -> bytes | None:
        for _ in range(DOWNLOAD_TRIES):
            try:
                reply = httpx.get(url, timeout=CALL_TIMEOUT_S, trust_env=False)
                if reply.is_success:
                    return reply.content
            except httpx.HTTPError:
                pass  # the store may be what is broken now; the checks fetch every picture later
            time.sleep(PAUSE_S)
        return None

    def _headers(self, order: Order) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._keys[order.tenant]}"}
        return headers | ({"Idempotency-Key": f"key-{order.id}"} if order.is_keyed else {})


class Load:
    """The orders of one round, each in a thread of its own, sent at its moment."""

    def __init__(self, clients: Clients, orders: Sequence[Order]) -> None:
        self._clients = clients
        self._pool = ThreadPoolExecutor(max(1, len(orders)), thread_name_prefix="client")
        began_s = time.monotonic()
        self._futures: list[Future[bool]] = [self._pool.submit(self._run, order, began_s) for order in orders]

    def join(self, timeout_s: float) -> int:
        """Waits for all; how many are still at it when the time is up."""
        deadline_s = time.monotonic() + timeout_s
        while any(not future.done() for future in self._futures) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for future in self._futures:
            if future.done() and not future.cancelled():
                future.result()  # raises what broke a client: that is a fault of the suite
        return sum(not future.done() for future in self._futures)

    def _run(self, order: Order, began_s: float) -> bool:
        time.sleep(max(0.0, began_s + order.at_s - time.monotonic()))
        return self._clients.run(order)


def error_code(reply: httpx.Response) -> str | None:
    """The code of Darkroom's own error body; None for what somebody else answered in its place."""
    try:
        code = reply.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return None if code is None else str(code)


def may_come_again(status: int, code: str | None, *, is_keyed: bool) -> bool:
    """Whether a client sends the same once more. Without a key only where certainly nothing was stored."""
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return True
    # No code: Ray's own proxy spoke, which answers 404 and 500 while the application is away.
    return is_keyed and (code is None or status == httpx.codes.SERVICE_UNAVAILABLE)
