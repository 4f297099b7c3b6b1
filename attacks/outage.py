"""Asks the proxy for a host on no list, again and again, while somebody outside ends the proxy and starts it again.

At every moment the answer must be a refusal or none at all.
"""

import json
import os
import socket
import time


def ask():
    try:
        with socket.create_connection(("127.0.0.1", 3128), 5) as stream:
            stream.settimeout(5)
            stream.sendall(b"CONNECT outage.attack.test:443 HTTP/1.1\r\n\r\n")
            answer = stream.recv(4096)
    except OSError:
        return "none"
    if b"reason=not_on_allowlist" in answer:
        return "refused"
    return "open" if answer.startswith(b"HTTP/1.1 200") else "none"


def main():
    seen = []
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = ask()
        if not seen or seen[-1] != found:
            seen.append(found)
            print(found, flush=True)
        if seen == ["refused", "none", "refused"] or "open" in seen:
            break
        time.sleep(0.1)
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/results.jsonl", "w") as out:
        out.write(json.dumps({"attempt": "proxy-ended", "outcome": " ".join(seen)}) + "\n")


if __name__ == "__main__":
    main()
