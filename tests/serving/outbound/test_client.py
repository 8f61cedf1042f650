"""Calls to somebody else's server: to the address that was checked and no other, whatever names and redirects say."""

import asyncio
import datetime
import ssl
import threading
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from configs.settings import OutboundSettings
from serving.outbound import BadTarget, NoAnswer, Outbound, TookTooLong
from tests.serving.outbound.servers import HERE, OK, Names, get, outbound, post, server


async def test_a_post_says_who_it_is_for_and_what_it_holds() -> None:
    async with server(OK) as there:
        answer = await post(outbound(), there.url("/a?b=c"))
    assert (answer.status, answer.body, answer.is_cut) == (200, b"ok", False)
    assert there.heads[0].startswith("POST /a?b=c HTTP/1.1\r\n")
    assert f"Host: hooks.test:{there.port}\r\n" in there.heads[0]
    assert "Content-Length: 8\r\n" in there.heads[0]
    assert "Content-Type: application/json\r\n" in there.heads[0]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/", "http://[::1]:{}/", "http://localhost:{}/", "http://a.test:{}/"]
)
async def test_nothing_inside_is_connected_to(url: str) -> None:
    here = {"127.0.0.1": ["127.0.0.1"], "::1": ["::1"], "localhost": ["127.0.0.1", "::1"], "a.test": ["10.0.0.1"]}

    async def resolve(host: str, _port: int) -> list[str]:
        return here[host]

    async with server(OK) as there:
        client = outbound(resolve, allow=())
        for call in (client.check_url(url.format(there.port)), post(client, url.format(there.port))):
            with pytest.raises(BadTarget, match="public address"):
                await call
    assert there.heads == []


async def test_the_systems_own_names_for_this_machine_are_refused() -> None:
    client = Outbound(OutboundSettings())
    for host in ("localhost", "127.0.0.1", "[::1]"):
        with pytest.raises(BadTarget):
            await client.check_url(f"http://{host}/")
    await Outbound(OutboundSettings(allow=(*HERE, IPv6Network("::1/128")))).check_url("http://localhost/")


async def test_a_name_that_leads_elsewhere_a_moment_later_gets_nobody_connected() -> None:
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    async with server(OK) as there:
        client = outbound(names, allow=())
        await client.check_url(there.url())
        with pytest.raises(BadTarget):
            await post(client, there.url())
    assert there.heads == []
    assert names.asked == ["hooks.test"] * 2


async def test_the_connection_goes_to_the_address_that_was_checked_without_another_look() -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    async with server(OK) as there:
        assert (await post(outbound(names), there.url())).status == 200
    assert names.asked == ["hooks.test"]


@pytest.mark.parametrize("found", [["8.8.8.8", "10.0.0.1"], [], ["::ffff:8.8.8.8"], ["fe80::1%eth0"], ["nonsense"]])
async def test_a_name_is_refused_unless_all_it_leads_to_is_allowed(found: list[str]) -> None:
    with pytest.raises(BadTarget, match="public address"):
        await outbound(Names(found), allow=()).check_url("https://hooks.test/")


async def test_a_name_inside_and_a_name_that_does_not_exist_are_refused_in_the_same_words() -> None:
    told = []
    for names in (Names(["10.0.0.1"]), Names(OSError("no such name")), Names([])):
        with pytest.raises(BadTarget) as refusal:
            await outbound(names, allow=()).check_url("https://db.internal/")
        told.append(str(refusal.value))
    assert len(set(told)) == 1


async def test_a_name_service_that_hangs_costs_no_more_than_the_limit() -> None:
    async def hang(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    client = outbound(hang, lookup_timeout_s=0.05)
    with pytest.raises(TookTooLong):
        await client.check_url("http://hooks.test/")
    with pytest.raises(TookTooLong):
        await post(client, "http://hooks.test/", timeout_s=0.05)


async def test_of_several_addresses_the_next_is_tried_when_one_does_not_answer() -> None:
    async with server(OK) as there:
        assert (await post(outbound(Names(["127.0.0.9", "127.0.0.1"])), there.url())).status == 200


async def test_proxy_variables_lead_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(OK) as proxy, server(OK) as there:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(host="127.0.0.1"))
        await post(outbound(), there.url())
    assert (len(proxy.heads), len(there.heads)) == (0, 1)


def moved(to: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_post_follows_no_redirect(status: int) -> None:
    async with server(OK) as inside, server(moved(inside.url(), status)) as there:
        assert (await post(outbound(), there.url())).status == status
    assert inside.heads == []


async def test_a_get_follows_redirects_and_checks_each() -> None:
    async def resolve(host: str, _port: int) -> list[str]:
        return {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]}.get(host, ["10.0.0.1"])

    client = outbound(resolve)
    async with server(OK) as last, server(moved(f"http://b.test:{last.port}/x")) as first:
        assert (await get(client, first.url(host="a.test"))).body == b"ok"
    assert "Host: b.test" in last.heads[0]
    for target in (
        "http://inside.test/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "http://u:p@a.test/",
        "http://\xe4/",
    ):
        async with server(moved(target)) as first:
            with pytest.raises(BadTarget):
                await get(client, first.url(host="a.test"))


async def test_a_circle_of_redirects_ends() -> None:
    async with server(moved("/again")) as there:
        with pytest.raises(NoAnswer, match="3 redirects"):
            await get(outbound(), there.url())
    assert len(there.heads) == 4


async def test_tls_verifies_the_name_and_not_the_address(tmp_path: Path) -> None:
    serving, trusting = certificates(tmp_path, "hooks.test")
    async with server(OK, tls=serving) as there:
        client = outbound(tls=trusting)
        assert (await post(client, there.url(scheme="https"))).status == 200
        for stranger in (there.url(host="other.test", scheme="https"), there.url(host="127.0.0.1", scheme="https")):
            with pytest.raises(NoAnswer, match="TLS"):
                await post(client, stranger)
        with pytest.raises(NoAnswer, match="TLS"):
            await post(outbound(), there.url(scheme="https"))


def test_every_loop_may_use_the_same_threads_for_its_lookups() -> None:
    client = Outbound(OutboundSettings(allow=HERE))
    failures: list[BaseException] = []

    def look() -> None:
        try:
            asyncio.run(client.check_url("http://127.0.0.1/"))
        except BaseException as error:  # noqa: BLE001 - told by the test below, from the thread it happened in
            failures.append(error)

    for thread in [threading.Thread(target=look) for _ in range(3)]:
        thread.start()
        thread.join()
    assert failures == []


def certificates(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side of TLS with a certificate for `name`, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    text = serialization.Encoding.PEM
    pem.write_bytes(
        key.private_bytes(text, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(text)
    )
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    return serving, ssl.create_default_context(cafile=str(pem))
