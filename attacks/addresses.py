"""Spellings of addresses and names that no sandbox may reach, by the family of the spelling."""

import ipaddress
import socket

NEVER = ["127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1",
         "100.64.0.1", "100.100.100.200", "169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "192.0.2.1",
         "192.88.99.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "224.0.0.251", "239.255.255.250", "240.0.0.1",
         "255.255.255.255", "{host_v4}", "{docker0_v4}", "{bridge_gateway}", "{bridge_v4}"]
SETS = {
    "dotted": NEVER,
    "odd": ["127.1", "127.0.1", "0", "2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.1", "0x7F.0x0.0x0.0x1",
            "127.0.0.1.", "00127.0.0.1", "127.0.0.01", "127.0.0.1.1", "256.256.256.256", "4294967296", "1.2.3", "10.1", "0xa9fea9fe",
            "2852039166", "0251.0376.0251.0376", "169.254.43518", "{host_decimal}", "{host_hex}", "{host_octal}", "{host_v4}.",
            "{docker0_v4}.", "0300.0250.1", "192.168.257"],
    "v6": ["::1", "::", "0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "fe80::1", "fe80::42:acff:fe11:1", "fc00::1",
           "fd00:ec2::254", "fd20:ce::254", "ff02::1", "ff0e::1", "fec0::1", "2001:db8::1", "100::1", "3fff::1", "5f00::1", "2001::1",
           "2001:2::1", "2001:10::1", "{host_v6}", "{host_link_local}"],
    "embedded": ["::ffff:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:ffff:7f00:1", "::ffff:169.254.169.254", "::ffff:{host_v4}", "::127.0.0.1",
                 "::{host_v4}", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::{host_v4}",
                 "64:ff9b:1::10.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:1::1", "{host_6to4}::1",
                 "2001:0:5ef5:79fb:0:0:3fff:fdfd", "2001:0:c0a8:1:0:0:80ff:fffe", "fe80::200:5efe:10.0.0.1", "::ffff:{docker0_v4}"],
    "names": ["localhost", "LOCALHOST", "localhost.", "x.localhost", "localhost.localdomain", "metadata", "metadata.google.internal",
              "METADATA.Google.Internal.", "host.docker.internal", "gateway.docker.internal", "kubernetes.docker.internal",
              "instance-data.ec2.internal", "x.internal", "metadata.attack.test", "printer.local",
              "router.home.arpa"],
}


def spelled(name, fill):
    return [fill(text) for text in SETS[name]]


def in_url(text):
    """As it stands in an authority: version 6 in brackets."""
    return f"[{text}]" if ":" in text else text


def socks_address(text):
    """The request of SOCKS5 up to the port, the address as an address."""
    if ":" in text:
        return b"\x05\x01\x00\x04" + socket.inet_pton(socket.AF_INET6, text.split("%")[0])
    return b"\x05\x01\x00\x01" + socket.inet_aton(text.rstrip("."))


def socks_name(text):
    return b"\x05\x01\x00\x03" + bytes([len(text)]) + text.encode()


def is_global(text):
    """Whether the C library takes it for an address of the world: nothing is sent to such a one."""
    try:
        return ipaddress.ip_address(socket.inet_aton(text)).is_global
    except OSError:
        return False


def is_own(text):
    """Whether it is the sandbox itself."""
    address = ipaddress.ip_address(text.split("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified
