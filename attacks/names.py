"""The proxy alone in a network of its own, with a resolver that lies: what it dials for which answers.

Loopback has addresses of the world, of private networks and of metadata services, and something listens at each of
them, so that it shows which one was dialled. Needs NET_ADMIN in a container without a network, and the proxy as
/forge-egress.
"""

import concurrent.futures
import json
import os
import socket
import struct
import subprocess
import threading
import time

import network
import special

PUBLIC, PUBLIC_6 = "11.0.0.7", "2600:7::7"
PRIVATE = ["10.1.2.3", "169.254.169.254", "192.168.7.7", "100.100.100.200", "168.63.129.16", "172.17.0.1"]
PRIVATE_6 = ["fd00:ec2::254", "fd12::1"]
ABSENT = "11.0.0.9"
A, CNAME, AAAA = 1, 5, 28
# Names whose lookup is meant to fail, or whose answers are counted.
FAILING = {"alias-loop", "alias-only", "stranger", "nothing", "absent", "failing", "refusing", "garbage", "silent", "rebinding", "alternating", "many"}
LEVELS = ["package_only", "limited_web", "full_web"]
LONG = ".".join(["a" * 63] * 3 + ["a" * 30])
OWN_6 = "2600:8::8"


def v4(*addresses): return lambda name, kind, number: [(name, A, socket.inet_aton(text)) for text in addresses] if kind == A else []
def v6(*addresses): return lambda name, kind, number: [(name, AAAA, socket.inet_pton(socket.AF_INET6, text)) for text in addresses] if kind == AAAA else []
def both(*parts): return lambda name, kind, number: [record for part in parts for record in part(name, kind, number)]


def chain(*names, last):
    """Aliases one after the other, all in one answer, and the addresses of the last."""
    def answer(name, kind, number):
        records, here = [], name
        for below in names:
            records.append((here, CNAME, wire(below)))
            here = below
        return records + last(here, kind, number)
    return answer


def turns(*parts):
    """Another answer each time that the address is asked for."""
    return lambda name, kind, number: parts[min(number, len(parts) - 1)](name, kind, number)


def alternating(*parts):
    return lambda name, kind, number: parts[number % len(parts)](name, kind, number)


def code(number): return lambda *_: number
def silent(*_): return None
def loop(name, kind, number): return [("two." + name, CNAME, wire(name)), (name, CNAME, wire("two." + name))]
def stranger(name, kind, number): return [("victim.test", A, socket.inet_aton(PUBLIC))] if kind == A else []
def garbage(*_): return b"\xff" * 64
def half(*_): return "truncated"


# Name: what is answered, and how often it is asked for.
NAMES = {
    "public": v4(PUBLIC),
    "mixed": v4("10.1.2.3", PUBLIC, "127.0.0.1", "169.254.169.254"),
    "mixed-first": v4(PUBLIC, "10.1.2.3", "192.168.7.7"),
    "mixed-absent": v4("10.1.2.3", ABSENT, "169.254.169.254"),
    "mixed-versions": both(v4("10.1.2.3"), v6(PUBLIC_6)),
    "rebinding": turns(v4(PUBLIC), v4("10.1.2.3")),
    "alternating": alternating(v4(PUBLIC), v4("169.254.169.254")),
    "private": v4("192.168.7.7"),
    "metadata-v4": v4("169.254.169.254"),
    "azure": v4("168.63.129.16"),
    "alibaba": v4("100.100.100.200"),
    "loopback": v4("127.0.0.1"),
    "gateway": v4("172.17.0.1"),
    "zero": v4("0.0.0.0"),
    "broadcast": v4("255.255.255.255", "224.0.0.1", "240.0.0.1"),
    "v6-public": v6(PUBLIC_6),
    "v6-loopback": v6("::1"),
    "v6-mapped": v6("::ffff:10.1.2.3", "::ffff:127.0.0.1"),
    "v6-nat64": v6("64:ff9b::a01:203", "64:ff9b:1::a01:203"),
    "v6-6to4": v6("2002:a01:203::1"),
    "v6-unique": v6(*PRIVATE_6),
    "v6-metadata": both(v4(), v6("fd00:ec2::254")),
    "alias-private": chain("inside.test", last=v4("10.1.2.3")),
    "alias-localhost": chain("localhost", last=v4("127.0.0.1")),
    "alias-metadata": chain("metadata.google.internal", last=v4("169.254.169.254")),
    "aliases": chain(*[f"step{number}.test" for number in range(12)], last=v4("192.168.7.7")),
    "aliases-mixed": chain("one.test", "two.test", last=v4("10.1.2.3", PUBLIC)),
    "alias-loop": loop,
    "alias-only": lambda name, kind, number: [(name, CNAME, wire("nowhere.bad.test"))],
    "stranger": stranger,
    "many": v4(*[f"10.1.0.{number}" for number in range(12)], PUBLIC),
    "nothing": v4(),
    "absent": code(3),
    "failing": code(2),
    "refusing": code(5),
    "garbage": garbage,
    "silent": silent,
    "truncated": half,
}


def wire(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split(".")) + b"\0"


def reply(query, numbers, over_tcp):
    """What the resolver says to a query; nothing at all for a silent name."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
        at += query[at] + 1
    name, (kind,) = ".".join(labels).lower(), struct.unpack(">H", query[at + 1 : at + 3])
    question = query[12 : at + 5]
    known = "long" if name.startswith("a" * 60) else labels[0].lower() if name.endswith(".bad.test") else None
    if name == "victim.test":
        known = "private"
    answer = NAMES.get(known, v4(PUBLIC) if known == "long" else code(3))
    number = numbers.get((name, kind), 0)
    numbers[(name, kind)] = number + 1
    answer = answer(name, kind, number)
    if answer is None:
        return None
    if isinstance(answer, bytes):
        return query[:2] + answer
    flags, records = 0x8180, []
    if isinstance(answer, int):
        flags |= answer
    elif answer == "truncated":
        flags |= 0 if over_tcp else 0x0200
        records = v4("10.1.2.3")(name, kind, 0) if over_tcp else []
    else:
        records = answer
    body = b"".join((b"\xc0\x0c" if owner == name else wire(owner)) + struct.pack(">HHIH", kind, 1, 0, len(data)) + data for owner, kind, data in records)
    return query[:2] + struct.pack(">5H", flags, 1, len(records), 0, 0) + question + body


def resolver():
    numbers = {}
    datagrams, streams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    datagrams.bind(("127.0.0.1", 53))
    streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    streams.bind(("127.0.0.1", 53))
    streams.listen(50)

    def by_datagram():
        while True:
            query, peer = datagrams.recvfrom(2000)
            if (answer := reply(query, numbers, False)) is not None:
                datagrams.sendto(answer, peer)

    def by_stream():
        while True:
            stream, _ = streams.accept()
            with stream:
                query = stream.recv(2000)[2:]
                if query and (answer := reply(query, numbers, True)) is not None:
                    stream.sendall(struct.pack(">H", len(answer)) + answer)

    for target in (by_datagram, by_stream):
        threading.Thread(target=target, daemon=True).start()


def listeners():
    """Something at every address, on three ports, that says which address was dialled."""
    def serve(listener):
        while True:
            stream, _ = listener.accept()
            here = stream.getsockname()[0].replace("::ffff:", "")
            threading.Thread(target=talk, args=(stream, here), daemon=True).start()

    def talk(stream, here):
        with stream:
            stream.settimeout(60)
            asked = stream.recv(4096)
            # Whoever asks for it gets back what came.
            body = asked if b" /echo " in asked.split(b"\r\n", 1)[0] else f"reached:{here}".encode()
            if asked.startswith(b"\x16"):
                # A bare ServerHello, as the proxy waits for one, and then what it does not look at.
                hello = b"\x03\x03" + bytes(32) + b"\x00\xc0\x2f\x00"
                hello = b"\x02" + len(hello).to_bytes(3, "big") + hello
                stream.sendall(b"".join(kind + b"\x03\x03" + len(data).to_bytes(2, "big") + data for kind, data in [(b"\x16", hello), (b"\x17", body)]))
                return
            stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    for port in (80, 443, 7413):
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.listen(100)
        threading.Thread(target=serve, args=(listener,), daemon=True).start()


def add_addresses(addresses):
    for text in addresses:
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        data = socket.inet_pton(family, text)
        body = struct.pack("=BBBBi", family, len(data) * 8, 0x02, 0, 1) + special.attribute(1, data) + special.attribute(2, data)
        found = special.route_request(20, 0x600, body)
        if found != "worked":
            raise SystemExit(f"{text} cannot be had: {found}")


def add_way_out():
    """A default route of version 6 that leads nowhere, so that the proxy believes in one."""
    link = special.attribute(3, b"out0\0") + special.attribute(18, special.attribute(1, b"veth"))
    found = special.route_request(16, 0x600, b"\0" * 16 + link)
    number = socket.if_nametoindex("out0") if found == "worked" else 1
    up = special.route_request(16, 0, struct.pack("=BxHiII", 0, 0, number, 1, 1))
    route = struct.pack("=BBBBBBBBI", socket.AF_INET6, 0, 0, 0, 254, 4, 0, 1, 0) + special.attribute(4, struct.pack("=i", number))
    return found, up, special.route_request(24, 0x600, route)


class Proxy:
    def __init__(self):
        command = ["/forge-egress", "serve", "--sockets", "/tmp/sockets", "--control", "/tmp/control"]
        os.makedirs("/tmp/sockets", exist_ok=True)
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.child.stdout.readline()
        self.relay = subprocess.Popen(["/forge-egress", "control", "--control", "/tmp/control"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.number = 0
        self.ask({"kind": "hello", "version": 2, "denied": [], "engine": "attacks"})

    def ask(self, request):
        self.number += 1
        self.relay.stdin.write(json.dumps({"id": self.number, "request": request}).encode() + b"\n")
        self.relay.stdin.flush()
        while True:
            event = json.loads(self.relay.stdout.readline())
            if event.get("id") == self.number:
                if event.get("error"):
                    raise SystemExit(event["error"])
                return

    def open(self, level):
        hosts = [] if level == "full_web" else [
            {"name": name, "subdomains": subdomains, "ports": [80, 443, 7413]}
            for name, subdomains in (("bad.test", True), ("victim.test", False))]
        limits = {"connections": 320, "upload_bytes": 1 << 20, "download_bytes": 1 << 30, "idle_seconds": 20}
        self.ask({"kind": "set", "sandbox": level, "directory": level.replace("_", "") * 4,
                  "policy": {"level": level, "allow": hosts, "exceptions": [], "limits": limits},
                  "context": {"run": "r", "task": "t", "phase": "solve"}})
        return f"/tmp/sockets/{level.replace('_', '') * 4}/proxy.sock"


def asked(path, request):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(30)
        stream.connect(path)
        stream.sendall(request)
        first = network.head(stream)
        if first.startswith(b"HTTP/1.1 200"):
            if request.startswith(b"CONNECT"):
                host = request.split(b" ")[1].split(b":")[0].decode()
                stream.sendall(network.hello("right", host)[0])
            text = (first.split(b"\r\n\r\n", 1)[1] + network.receive(stream)[0]).decode("latin-1")
            return text[text.index("reached:"):] if "reached:" in text else "closed"
        return network.answer(first)


def patiently(ask):
    """Once more where the resolver was not heard in time, on a machine that has much else to do. Failures are remembered
    for five seconds."""
    def again(*arguments):
        for _ in range(5):
            found = ask(*arguments)
            if found != "denied:dns_failure":
                break
            time.sleep(6)
        return found
    return again


def tried(path, level, name):
    """Each level has names of its own, so that each is asked for the first time."""
    host = "victim.test" if name == "victim" else f"{LONG if name == 'long' else name}.{level.replace('_', '-')}.bad.test"
    times = {"rebinding": 6, "alternating": 12}.get(name, 1)
    requests = [f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", f"CONNECT {host}:443 HTTP/1.1\r\n\r\n"]
    ask = asked if name in FAILING else patiently(asked)
    outcomes = [ask(path, request.encode()) for _ in range(times) for request in requests]
    return " + ".join(sorted(set(outcomes)))


def echoed(path, headers):
    """The head of a request as a server gets it."""
    request = f"GET http://{headers['address']}/echo HTTP/1.1\r\nHost: {headers['host']}\r\n{headers['more']}Connection: close{headers['options']}\r\n\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(60)
        stream.connect(path)
        stream.sendall(request.encode())
        answer = network.receive(stream)[0].decode("latin-1")
    if not answer.startswith("HTTP/1.1 200"):
        return network.answer(answer.encode()), {}
    lines = answer.split("\r\n\r\n", 1)[1].split("\r\n\r\n", 1)[0].split("\r\n")[1:]
    return "echoed", {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}


def echo(path, level, kind):
    address = f"public.{level.replace('_', '-')}.bad.test"
    headers = {"address": address, "host": address, "more": "", "options": ""}
    if kind == "other-host":
        headers["host"] = "evil.attack.test"
    elif kind == "upgrade-h2c":
        headers |= {"more": "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", "options": ", Upgrade, HTTP2-Settings"}
    else:
        headers |= {"more": "Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n", "options": ", Upgrade"}
    found, got = echoed(path, headers)
    if found != "echoed":
        return found
    if kind == "other-host":
        return "rewritten" if got["host"] == address else "host:" + got["host"]
    kept = [name for name in got if name in ("upgrade", "http2-settings")] + [got["connection"]] * ("upgrade" in got.get("connection", "").lower())
    return "kept: " + ", ".join(kept) if kept else "taken out"


def on_port(path, level, kind):
    """First bytes on a port that a task names, which carries any protocol: what some server takes for TLS is judged all the same."""
    host = f"public.{level.replace('_', '-')}.bad.test"
    (other,) = network.hello("other", host)
    first = {
        "tls-control": network.hello("right", host)[0],
        "raw-control": b"\0\x01\x02 a protocol of its own\n",
        "tls-other": other,
        "tls-version": other[:1] + b"\x03\x7f" + other[3:],
        "tls-major": other[:1] + b"\x02\x01" + other[3:],
        "tls-sslv2": b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + b"\x07\x00\xc0" * 7 + b"x" * 16,
        "tls-alert": b"\x15\x03\x01\x00\x02\x01\x00" + other,
        "tls-cipher": b"\x14\x03\x03\x00\x01\x01" + other,
        "tls-empty": b"\x16\x03\x01\x00\x00" + other,
    }[kind]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(60)
        stream.connect(path)
        stream.sendall(f"CONNECT {host}:7413 HTTP/1.1\r\n\r\n".encode())
        found = network.answer(network.head(stream))
        if found != "status:200":
            return found
        stream.sendall(first)
        data, end = network.receive(stream)
    text = data.decode("latin-1")
    return text[text.index("reached:"):] if "reached:" in text else "answered" if text else end


def main():
    # The proxy asks whoever stands there, when it starts.
    with open("/etc/resolv.conf", "w") as file:
        file.write("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    resolver()
    listeners()
    # By this one it knows that there is a version 6.
    add_addresses([OWN_6])
    add_way_out()
    proxy = Proxy()
    # Only now: what it had when it began is its own, and denied for that.
    add_addresses([PUBLIC, PUBLIC_6] + PRIVATE + PRIVATE_6)
    paths = {level: proxy.open(level) for level in LEVELS}
    lock = threading.Lock()

    def one(level, name, way=tried, prefix="names"):
        outcome = way(paths[level], level, name)
        with lock:
            print(json.dumps({"attempt": f"{prefix}-{name}", "level": level, "outcome": outcome}), flush=True)

    # The stranger's answer comes before its victim is asked for; who is silent takes longest.
    names = ["stranger", "silent"] + [name for name in NAMES if name not in ("stranger", "silent")] + ["long", "victim"]
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        for name in names:
            for level in LEVELS:
                pool.submit(one, level, name)
        for level in LEVELS:
            for kind in ("other-host", "upgrade-h2c", "upgrade-websocket"):
                pool.submit(one, level, kind, patiently(echo), "echo")
            for kind in ("tls-control", "raw-control", "tls-other", "tls-version", "tls-major", "tls-sslv2", "tls-alert", "tls-cipher", "tls-empty"):
                pool.submit(one, level, kind, patiently(on_port), "port")
    proxy.relay.kill()
    proxy.child.kill()


if __name__ == "__main__":
    main()
