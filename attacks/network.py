"""Runs the attempts of network.json inside a sandbox and writes what became of each.

Every attempt has a bound on time and ends in a word: the name of an errno, `denied:REASON` as the proxy's header
says, `status:CODE`, `closed`, `reset`, or what it got that it should not have. Payloads carry a token, so that a
listener outside can say which attempt it heard.
"""

import concurrent.futures
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import time

import addresses
import special

HTTP_PROXY = ("127.0.0.1", 3128)
SOCKS_PROXY = ("127.0.0.1", 1080)
RESOLVER = ("127.0.0.1", 53)
PATIENCE = 60
HERE = os.path.dirname(os.path.abspath(__file__))


def word(error):
    if isinstance(error, (TimeoutError, socket.timeout)):
        return "timeout"
    if isinstance(error, socket.gaierror):
        return "no_name"
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, str(error.errno))
    return type(error).__name__


def receive(stream, most=65536):
    data = b""
    while len(data) < most:
        try:
            piece = stream.recv(4096)
        except ConnectionResetError:
            return data, "reset"
        except (TimeoutError, socket.timeout):
            return data, "timeout"
        if not piece:
            return data, "closed"
        data += piece
    return data, "open"


def head(stream):
    data = b""
    while b"\r\n\r\n" not in data and len(data) < 32768:
        piece = stream.recv(4096)
        if not piece:
            break
        data += piece
    return data


def answer(data):
    """What an answer of the proxy says."""
    if not data:
        return "closed"
    text = data.decode("latin-1")
    lines = text.split("\r\n\r\n", 1)[0].split("\r\n")
    for line in lines[1:]:
        if line.lower().startswith("x-swe-forge-egress:") and "reason=" in line:
            return "denied:" + line.split("reason=", 1)[1].strip()
    words = lines[0].split(" ")
    return "status:" + words[1] if len(words) > 1 else "garbage"


class Attempts:
    def __init__(self, parameters):
        self.parameters = parameters | {"megabyte": "a" * (1 << 20)}

    def fill(self, text):
        for key, value in self.parameters.items():
            text = text.replace("{" + key + "}", str(value))
        return text

    def raw(self, text):
        return self.fill(text).encode("utf-8").decode("unicode_escape").encode("latin-1")

    def token(self, attempt):
        return f"attack {self.parameters['level']} {attempt['name']}\n".encode()

    # Sockets of the sandbox's own, past the proxy.

    def tcp(self, attempt):
        family = socket.AF_INET6 if ":" in self.fill(attempt["host"]) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as stream:
            stream.settimeout(3)
            stream.connect((self.fill(attempt["host"]), int(self.fill(str(attempt["port"])))))
            stream.sendall(self.token(attempt))
            return "connected"

    def udp(self, attempt):
        family = socket.AF_INET6 if ":" in self.fill(attempt["host"]) else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as stream:
            stream.settimeout(2)
            if attempt.get("broadcast"):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            stream.sendto(self.token(attempt), (self.fill(attempt["host"]), int(self.fill(str(attempt["port"])))))
            return "sent"

    def special(self, attempt):
        return getattr(special, attempt["call"])(self.parameters, self.token(attempt))

    # The proxy.

    def connect(self, attempt):
        request = b"CONNECT " + self.raw(attempt["target"]) + b" HTTP/1.1\r\n"
        request += self.raw(attempt.get("headers", "")) + b"\r\n"
        return self.to_proxy(attempt, request)

    def http(self, attempt):
        return self.to_proxy(attempt, self.raw(attempt["request"]))

    def to_proxy(self, attempt, request):
        until = time.monotonic() + attempt.get("wait", 0)
        while True:
            with socket.create_connection(HTTP_PROXY, PATIENCE) as stream:
                stream.settimeout(PATIENCE)
                stream.sendall(request)
                found = answer(head(stream))
                if found == "status:200" and attempt["kind"] == "connect":
                    stream.sendall(self.token(attempt))
            # The name is given its address only while this runs.
            if found != attempt.get("until_not") or time.monotonic() > until:
                return found
            time.sleep(0.5)

    def second(self, attempt):
        """Two requests on one connection; what counts is the second."""
        with socket.create_connection(HTTP_PROXY, PATIENCE) as stream:
            stream.settimeout(PATIENCE)
            stream.sendall(self.raw(attempt["first"]))
            stream.sendall(self.raw(attempt["request"]))
            data, end = receive(stream, 1 << 20)
            parts = data.split(b"HTTP/1.1 ")
            return answer(b"HTTP/1.1 " + parts[-1]) if len(parts) > 1 else end

    def tls(self, attempt):
        """A tunnel that is allowed, and other first bytes than TLS for that host."""
        host = self.fill(attempt["host"])
        with socket.create_connection(HTTP_PROXY, PATIENCE) as stream:
            stream.settimeout(PATIENCE)
            stream.sendall(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
            found = answer(head(stream))
            if found != "status:200":
                return found
            for piece in hello(attempt["hello"], host):
                stream.sendall(piece)
                time.sleep(0.02)
            data, end = receive(stream, 1)
            return "answered" if data else end

    def socks(self, attempt):
        with socket.create_connection(SOCKS_PROXY, PATIENCE) as stream:
            stream.settimeout(PATIENCE)
            greeting = self.raw(attempt.get("greeting", "\\x05\\x01\\x00"))
            stream.sendall(greeting)
            if greeting[0] == 5:
                reply = stream.recv(2)
                if reply != b"\x05\x00":
                    return "refused:%d" % reply[1] if len(reply) == 2 else "closed"
            request = attempt.get("bytes") or self.raw(attempt["request"])
            stream.sendall(request + struct.pack(">H", int(self.fill(str(attempt["port"])))))
            reply = stream.recv(10)
            if len(reply) < 2:
                return "closed"
            if reply[1] == 0:
                stream.sendall(self.token(attempt))
                return "connected"
            return "refused:%d" % reply[1]

    # Programs of the image, in an environment that is not what they were given.

    def program(self, attempt):
        changes = {name: value and self.fill(value) for name, value in attempt["environment"].items()}
        environment = {name: value for name, value in (os.environ | changes).items() if value is not None}
        command = ["curl", "--silent", "--output", "/dev/null", "--max-time", str(PATIENCE), "--write-out",
                   "%{http_code} %header{x-swe-forge-egress}", f"http://{attempt['name']}.attack.test/"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            return f"curl:{done.returncode}"
        code, _, reason = done.stdout.partition(" ")
        return "denied:" + reason.split("reason=", 1)[1].strip() if "reason=" in reason else "status:" + code

    # Capture and names.

    def captured(self, attempt):
        name = self.fill(attempt["host"])
        address = name if attempt.get("literal") else socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0]
        if not address.startswith("127."):
            return "resolved:" + address
        with socket.create_connection((address, int(self.fill(str(attempt["port"])))), PATIENCE) as stream:
            stream.settimeout(PATIENCE)
            stream.sendall(self.raw(attempt.get("request", "GET / HTTP/1.1\\r\\nHost: x.invalid\\r\\n\\r\\n")))
            data, end = receive(stream, 1)
            if data:
                data += receive(stream)[0]
                return answer(data)
            return end

    def dns(self, attempt):
        server = (self.fill(attempt["server"]), 53) if "server" in attempt else RESOLVER
        kind = attempt["type"]
        name = b"".join(bytes([len(part)]) + part for part in self.raw(attempt["host"]).split(b".")) + b"\0"
        query = struct.pack(">6H", 0x1234, 0x0100, 1, 0, 0, 0) + name + struct.pack(">2H", kind, 1)
        if attempt.get("over") == "tcp":
            with socket.create_connection(server, 3) as stream:
                stream.settimeout(3)
                stream.sendall(struct.pack(">H", len(query)) + query)
                reply = stream.recv(4096)[2:]
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
                stream.settimeout(3)
                # Only a connected socket is told that nobody listens.
                stream.connect(server)
                stream.send(query)
                reply = stream.recv(4096)
        if len(reply) < 12:
            return "closed"
        code, answers = reply[3] & 15, struct.unpack(">H", reply[6:8])[0]
        if answers == 0:
            return "empty"
        if kind == 1 and reply[-4] == 127:
            return "synthetic"
        return "answered:%d" % code

    # Many spellings in one way: what counts is every one of them.

    def spellings(self, attempt):
        level, way = self.parameters["level"], getattr(self, "by_" + attempt["way"])
        expected = attempt["expect"] if isinstance(attempt["expect"], str) else attempt["expect"][level]
        outcomes = []
        for text in addresses.spelled(attempt["set"], self.fill):
            try:
                found = way(text, attempt)
            except Exception as error:  # Whatever it is, it is how the attempt ended.
                found = word(error)
            if found in expected.split("|"):
                outcomes.append(found)
            elif found is not None:
                return f"{found} for {text}"
        return " + ".join(sorted(set(outcomes))) or "nothing was tried"

    def by_tcp(self, text, attempt):
        """A socket of the sandbox's own; what the C library takes for an address is one."""
        return self.tcp({"host": socket.getaddrinfo(text, 1, type=socket.SOCK_STREAM)[0][4][0], "port": "{tcp}", "name": attempt["name"]})

    def by_udp(self, text, attempt):
        if addresses.is_own(text):
            return None
        return self.udp({"host": socket.getaddrinfo(text, 1, type=socket.SOCK_DGRAM)[0][4][0], "port": "{udp}", "name": attempt["name"], "broadcast": True})

    def by_connect(self, text, attempt):
        return self.asked(HTTP_PROXY, f"CONNECT {addresses.in_url(text)}:443 HTTP/1.1\r\nHost: x.invalid\r\n\r\n", attempt)

    def by_http(self, text, attempt):
        request = f"GET http://{addresses.in_url(text)}/ HTTP/1.1\r\nHost: x.invalid\r\nConnection: close\r\n\r\n"
        return self.asked(HTTP_PROXY, request, attempt)

    def by_unix(self, text, attempt):
        """The proxy's socket itself, in the words of the relay."""
        request = f"CONNECT {addresses.in_url(text)}:443 HTTP/1.1\r\nX-Swe-Forge-Mode: {attempt['mode']}\r\n\r\n"
        return self.asked(special.EGRESS + "/proxy.sock", request, attempt)

    def asked(self, proxy, request, attempt):
        family = socket.AF_UNIX if isinstance(proxy, str) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as stream:
            stream.settimeout(PATIENCE)
            stream.connect(proxy)
            stream.sendall(request.encode())
            found = answer(head(stream))
            if found == "status:200":
                stream.sendall(self.token(attempt))
            return found

    def by_socks_name(self, text, attempt):
        return self.socks({"request": "", "port": 443, "bytes": addresses.socks_name(text), "name": attempt["name"]})

    def by_socks_address(self, text, attempt):
        if addresses.is_global(text):
            return None
        try:
            request = addresses.socks_address(text)
        except OSError:
            # It is no address to the C library either.
            return None
        return self.socks({"request": "", "port": 443, "bytes": request, "name": attempt["name"]})

    def by_socks4(self, text, attempt):
        return self.socks4(b"\x04\x01\x01\xbb" + socket.inet_aton(text) + b"user\0")

    def by_socks4a(self, text, attempt):
        return self.socks4(b"\x04\x01\x01\xbb\0\0\0\x01user\0" + text.encode() + b"\0")

    def socks4(self, request):
        with socket.create_connection(SOCKS_PROXY, PATIENCE) as stream:
            stream.settimeout(PATIENCE)
            stream.sendall(request)
            data, end = receive(stream, 8)
            return "granted" if data[:2] == b"\0\x5a" else "answered" if data else end

    def by_resolver(self, text, attempt):
        """The spelling as a name of the resolver, and what listens at the address that it gets."""
        labels = text.rstrip(".").encode().split(b".")
        query = struct.pack(">6H", 0x1234, 0x0100, 1, 0, 0, 0) + b"".join(bytes([len(part)]) + part for part in labels) + struct.pack(">BHH", 0, 1, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
            stream.settimeout(3)
            stream.connect(RESOLVER)
            stream.send(query)
            reply = stream.recv(4096)
        if struct.unpack(">H", reply[6:8])[0] == 0:
            return "empty"
        address = socket.inet_ntoa(reply[-4:])
        if not address.startswith("127."):
            return "resolved:" + address
        return self.captured({"host": address, "literal": True, "port": 80, "name": attempt["name"]})

    def run(self, attempt):
        result = {"attempt": attempt["name"]}
        try:
            result["outcome"] = getattr(self, attempt["kind"])(attempt)
        except Exception as error:  # Whatever it is, it is how the attempt ended.
            result["outcome"] = word(error)
            result["detail"] = str(error)[:200]
        return result


def vector(data, size=2):
    return len(data).to_bytes(size, "big") + data


def extension(kind, data):
    return struct.pack(">H", kind) + vector(data)


def server_names(*names):
    return extension(0, vector(b"".join(b"\0" + vector(name.encode()) for name in names)))


def hello(kind, host):
    """The first bytes of a client, in the pieces that they are sent in."""
    if kind == "ssh":
        return [b"SSH-2.0-OpenSSH_9.2\r\n"]
    if kind == "http":
        return [f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()]
    if kind == "garbage":
        return [bytes(range(1, 200))]
    if kind == "sslv2":
        return [b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\x07\x00\xc0" * 7 + b"x" * 16]
    if kind == "record_of_data":
        return [b"\x17\x03\x03" + vector(b"x" * 40)]
    names = {
        "other": server_names("other.attack.test"),
        "fragmented_other": server_names("other.attack.test"),
        "none": b"",
        "two": server_names(host, "other.attack.test"),
        "two_extensions": server_names(host) + server_names("other.attack.test"),
        "trailing_dot": server_names(host + "."),
        "nul": server_names(host + "\0.attack.test"),
        "address": server_names("192.0.2.1"),
        "suffix": server_names(host + ".attack.test"),
    }.get(kind, server_names(host))
    hiding = extension(0xFE0D, b"\0" * 40) if kind == "ech" else b""
    hiding += extension(0xFFCE, b"\0" * 40) if kind == "esni" else b""
    extensions = names + hiding
    extensions += extension(10, vector(struct.pack(">2H", 0x17, 0x18)))
    extensions += extension(11, b"\x01\x00")
    extensions += extension(13, vector(struct.pack(">4H", 0x0403, 0x0804, 0x0401, 0x0503)))
    ciphers = vector(struct.pack(">4H", 0xC02F, 0xC02B, 0xC030, 0xC02C))
    body = b"\x03\x03" + os.urandom(32) + b"\0" + ciphers + b"\x01\0" + vector(extensions)
    message = b"\x01" + vector(body, 3)
    record = lambda part: b"\x16\x03\x01" + vector(part)
    if kind.startswith("fragmented"):
        size = 20
        return [record(message[at : at + size]) for at in range(0, len(message), size)]
    return [record(message)]


def main():
    with open(os.path.join(HERE, "parameters.json")) as file:
        parameters = json.load(file)
    with open(os.path.join(HERE, "attempts.json")) as file:
        attempts = json.load(file)
    runner = Attempts(parameters)
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/results.jsonl", "w") as out:
        # Few at once: the bound on connections is an attack of its own.
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            for result in pool.map(runner.run, attempts):
                out.write(json.dumps(result) + "\n")
                out.flush()


if __name__ == "__main__":
    sys.exit(main())
