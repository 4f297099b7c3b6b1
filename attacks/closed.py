"""Ends well when the proxy refuses everything for the level."""

import socket
import sys

with socket.create_connection(("127.0.0.1", 3128), 5) as stream:
    stream.settimeout(5)
    stream.sendall(b"CONNECT evil.attack.test:443 HTTP/1.1\r\n\r\n")
    answer = stream.recv(4096)
print(answer[:200])
sys.exit(0 if b"reason=isolated" in answer else 1)
