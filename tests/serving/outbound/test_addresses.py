"""Which addresses clients may send us to, and which spellings of a URL are taken at all."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.outbound import BadTarget
from serving.outbound.addresses import FORBIDDEN_V4, FORBIDDEN_V6, is_allowed
from serving.outbound.target import Target, parse_target

INSIDE = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254"),
    *("168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "198.18.0.1", "224.0.0.1"),
    *("240.0.0.1", "255.255.255.255", "::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1"),
    *("2002:7f00:1::1", "2002:808:808::1", "2001:0:53aa:64c:0:1:2:3", "100::1", "5f00::1", "4000::1"),
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "100.128.0.1", "172.32.0.1", "192.169.0.1", "2606:4700:4700::1111", "2a00:1450::1"]


def address(text: str) -> IPv4Address | IPv6Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


@pytest.mark.parametrize("text", INSIDE)
def test_an_address_inside_is_refused(text: str) -> None:
    assert not is_allowed(address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_allowed(text: str) -> None:
    assert is_allowed(address(text))


@given(st.ip_addresses())
def test_nothing_is_allowed_that_the_standard_library_does_not_call_global(found: IPv4Address | IPv6Address) -> None:
    assert not is_allowed(found) or (found.is_global and not found.is_multicast and not found.is_reserved)


@given(st.sampled_from([*FORBIDDEN_V4, *FORBIDDEN_V6]).flatmap(lambda network: st.ip_addresses(network=network)))
def test_no_address_of_a_forbidden_range_is_allowed(found: IPv4Address | IPv6Address) -> None:
    assert not is_allowed(found)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_allowed_inside_an_ipv6_one(found: IPv4Address) -> None:
    number = int(found)
    for carrier in (number, 0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        assert not is_allowed(IPv6Address(carrier))


@given(st.ip_addresses(v=4, network="10.2.0.0/16"))
def test_the_operators_word_stands_above_the_rest(found: IPv4Address) -> None:
    assert is_allowed(found, [IPv6Network("fd00::/8"), IPv4Network("10.2.0.0/16")])
    assert not is_allowed(found, [IPv4Network("10.3.0.0/16")])


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com", "//example.com", "example.com", ""),
        *("http://", "http:///x", "http://user@example.com/", "http://user:word@example.com/", "http://@example.com"),
        *("http://0x7f.1/", "http://0x7f000001", "http://2130706433/", "http://0177.0.0.1/", "http://127.1/"),
        *("http://127.0.0.1./", "http://localhost./", "http://example.com./", "http://a..b/", "http://-a.b/"),
        *("http://1.2.3.4.5/", "http://256.1.1.1/", "http://a.0x/", "http://a.1/", "http://[::1", "http://[::1%lo]/"),
        *("http://[::1%25lo]/", "http://[v1.x]/", "http://[]/", "http://[127.0.0.1]/", "http://[::ffff:1.2.3]/"),
        *("http://example.com:0/", "http://example.com:65536/", "http://example.com:x/", "http://example.com:/"),
        *("http://example.com\\@127.0.0.1/", "http://exa mple.com/", "http://example.com/\n", "http://exa\tmple.com/"),
        *("http://ex\u00e4mple.com/", "http://\u2460.com/", "http://127\u30020.0.1/", "http://a%2eb/", "http://*.a/"),
        *("http://example.com/\x00", "http://example.com/" + "x" * 2_048, f"http://{'a' * 64}.com/"),
    ],
)
def test_a_url_in_an_odd_spelling_is_refused(url: str) -> None:
    with pytest.raises(BadTarget):
        parse_target(url)


def test_a_plain_url_is_taken_apart_as_it_stands() -> None:
    assert parse_target("HTTPS://Hooks.Example.com/a/b?c=d%20e#f") == Target(
        "https", "hooks.example.com", 443, "/a/b?c=d%20e"
    )
    assert parse_target("http://[2606:4700:0::1]:8080").authority == "[2606:4700::1]:8080"
    assert parse_target("http://8.8.8.8?x").path == "/?x"
    assert parse_target("http://a_b.test:81/").origin == "http://a_b.test:81"


@given(st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=60))
def test_any_text_is_a_target_or_refused_and_nothing_else(text: str) -> None:
    for url in (text, f"http://{text}", f"https://a.test/{text}"):
        try:
            target = parse_target(url)
        except BadTarget:
            continue
        assert target.scheme in {"http", "https"}
        assert 0 < target.port < 65_536
        assert target.path.isascii()
        assert target.path.isprintable()
        assert not set(target.host) & set("@/\\?# ")
