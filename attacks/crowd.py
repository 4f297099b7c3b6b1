"""One of many at once: stays until all are there, and asks for a name of its own where it has a network."""

import json
import os
import socket
import sys
import time

import special


def main():
    name, seconds = sys.argv[1], float(sys.argv[2])
    result = {"attempt": name, "outcome": "alone", "folder": "", "inode": 0}
    with open("/proc/self/mountinfo") as file:
        roots = [line.split()[3] for line in file if line.split()[4] == special.EGRESS]
    if roots:
        result["folder"] = os.path.basename(roots[0])
        result["inode"] = os.stat(special.EGRESS + "/proxy.sock").st_ino
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if roots:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                stream.settimeout(10)
                stream.connect(special.EGRESS + "/proxy.sock")
                stream.sendall(f"CONNECT {name}.attack.test:443 HTTP/1.1\r\n\r\n".encode())
                if b"reason=not_on_allowlist" not in stream.recv(4096):
                    result["outcome"] = "not refused"
        found = [special.other_sandbox(None, None), special.folder_above(None, None) if roots else "nothing", special.interfaces(None, None)]
        if found != ["ENOENT", "nothing", "only_lo"]:
            result["outcome"] = " ".join(found)
        time.sleep(0.5)
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/results.jsonl", "w") as out:
        out.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
