"""Headers of the PROXY protocol, as a proxy writes them; and, from the parts, wrong ones."""

import socket
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31
TLV_ALPN, TLV_CRC32C, TLV_NOOP = 0x01, 0x03, 0x04

CRC_TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    CRC_TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def v1(source, port=51514):
    """The line for this source; its protocol is that of the address."""
    family, own = ("TCP6", "2001:db8::1") if ":" in source else ("TCP4", "198.51.100.1")
    return f"PROXY {family} {source} {own} {port} 7400\r\n".encode()


def v2(source=None, port=51514, tlvs=b"", command=PROXY):
    """The header for this source, or without addresses; "unix" is one, too."""
    if source is None:
        family, block = UNSPEC, b""
    elif source == "unix":
        family, block = UNIX, b"/../../etc/passwd".ljust(108, b"\0") * 2
    elif ":" in source:
        family = TCP6
        block = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    else:
        family, block = TCP4, socket.inet_aton(source) + socket.inet_aton("198.51.100.1")
    if family in (TCP4, TCP6):
        block += struct.pack(">HH", port, 7400)
    return raw_v2(command, family, block + tlvs)


def raw_v2(command, family, block):
    return SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


def tlv(kind, value=b""):
    return struct.pack(">BH", kind, len(value)) + value


def with_checksum(source, tlvs=b"", wrong=0):
    """A header of version 2 with its CRC32c, in which the bits of `wrong` are flipped."""
    header = v2(source, tlvs=tlv(TLV_CRC32C, bytes(4)) + tlvs)
    at = len(header) - len(tlvs) - 4
    return header[:at] + struct.pack(">I", crc32c(header) ^ wrong) + header[at + 4:]


# Every kind of wrong, by what is wrong. Each is refused before its end, or at it.
WRONG = {
    "no header at all": b"GET / HTTP/1.1\r\n",
    "a blank line": b"\n",
    "lower case": b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
    "no protocol": b"PROXY \r\n",
    "another protocol": b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
    "an address too few": b"PROXY TCP4 192.0.2.7 1 2\r\n",
    "a word too many": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
    "an address of the other family": b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
    "no address": b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
    "a name": b"PROXY TCP4 localhost 198.51.100.1 1 2\r\n",
    "a scope": b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
    "a port with a leading zero": b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
    "a port too large": b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
    "a negative port": b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n",
    "LF alone": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n" + b"x" * 107,
    "a NUL": b"PROXY TCP4 192.0.2.7\0 198.51.100.1 1 2\r\n",
    "two blanks": b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
    "a line too long": b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    "a line without an end": b"PROXY TCP4 " + b"1" * 200,
    "a broken signature": SIGNATURE[:-1] + b"!" + raw_v2(PROXY, UNSPEC, b"")[12:],
    "version 1 in binary": raw_v2(0x11, UNSPEC, b""),
    "version 3": raw_v2(0x31, UNSPEC, b""),
    "another command": raw_v2(0x22, UNSPEC, b""),
    "another family": raw_v2(PROXY, 0x41, bytes(12)),
    "another transport": raw_v2(PROXY, 0x13, bytes(12)),
    "no room for IPv4": raw_v2(PROXY, TCP4, bytes(11)),
    "no room for IPv6": raw_v2(PROXY, TCP6, bytes(35)),
    "no room for UNIX": raw_v2(PROXY, UNIX, bytes(215)),
    "a header too long": raw_v2(PROXY, UNSPEC, bytes(0xFFFF)),
    "a TLV cut in its head": v2("192.0.2.7", tlvs=b"\x04\0"),
    "a TLV longer than the header": v2("192.0.2.7", tlvs=b"\x04\xff\xff!"),
    "a checksum of 3 bytes": v2("192.0.2.7", tlvs=tlv(TLV_CRC32C, bytes(3))),
    "a wrong checksum": with_checksum("192.0.2.7", wrong=1),
    "two checksums": v2("192.0.2.7", tlvs=2 * tlv(TLV_CRC32C, bytes(4))),
}
