"""Where BytePort may call. Pure: nothing is resolved and nobody is called."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byteport.core.destination import NEVER, Destination, destination_of, refusal

METADATA = [
    "169.254.169.254", "169.254.170.2", "fe80::1", "fe80::a9fe:a9fe", "fd00:ec2::254", "fd20:ce::254",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0", "::", "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
]  # fmt: skip
PRIVATE = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "::1", "fd12::1", "100.64.0.1", "::ffff:10.0.0.1"]
PUBLIC = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]


@pytest.mark.parametrize("address", METADATA)
def test_link_local_addresses_and_metadata_are_refused_whatever_is_allowed(address):
    assert "never called" in refusal(ip_address(address), private=True, encrypted=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_have_to_be_allowed(address):
    assert "private network" in refusal(ip_address(address), private=False, encrypted=True)
    assert refusal(ip_address(address), private=True, encrypted=True) == ""
    assert refusal(ip_address(address), private=True, encrypted=False) == ""


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called_encrypted_only(address):
    assert refusal(ip_address(address), private=False, encrypted=True) == ""
    assert "unencrypted" in refusal(ip_address(address), private=True, encrypted=False)


@pytest.mark.parametrize("address", ["224.0.0.1", "ff02::1", "255.255.255.255", "fec0::1"])
def test_what_is_nobodys_address_is_refused(address):
    assert refusal(ip_address(address), private=True, encrypted=True)


@pytest.mark.parametrize(
    "address", ["64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "::a9fe:a9fe", "::ffff:0:a9fe:a9fe"]
)
@pytest.mark.parametrize("private", [True, False])
def test_no_translator_leads_around_to_a_clouds_metadata(address, private):
    assert refusal(ip_address(address), private=private, encrypted=True)


@given(st.ip_addresses(network="169.254.0.0/16") | st.ip_addresses(network="fe80::/10"))
def test_no_link_local_address_is_ever_called(address):
    assert refusal(address, private=True, encrypted=True)
    assert any(address in network for network in NEVER)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://example.com", Destination("https", "example.com", 443, "/")),
        ("https://example.com:8443/a/b?c=d", Destination("https", "example.com", 8443, "/a/b?c=d")),
        ("http://[::1]:8080/x", Destination("http", "::1", 8080, "/x")),
        ("HTTPS://EXAMPLE.com./", Destination("https", "example.com.", 443, "/")),
    ],
)
def test_an_address_is_taken_apart(url, parts):
    assert destination_of(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "ftp://example.com/", "file:///etc/passwd", "https:///x", "https://user:pw@example.com/",
        "https://example.com/#x", "https://example.com:0/", "https://example.com:99999/", "https://exa mple.com/",
        "https://example.com/\r\nX: 1", "https://[fe80::1%25eth0]/", "https://münchen.example/", "https://-x/",
        "https://[::1", "https://" + "a" * 64 + ".example/", "https://example.com/" + "x" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_words(url):
    with pytest.raises(ValueError, match=r"\w+"):
        destination_of(url)


def test_the_host_header_has_the_port_only_where_it_is_another():
    assert destination_of("https://example.com:443/").authority == "example.com"
    assert destination_of("http://[::1]:8080/").authority == "[::1]:8080"
