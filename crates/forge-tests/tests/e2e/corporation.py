"""A company's network in one container: names, a certificate authority, mirrors of three registries and a git host."""

import base64
import hashlib
import http.server
import io
import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import tarfile
import threading
import zipfile

ROOT = "/corporation"
WEB = f"{ROOT}/web"
ZONE = "corp.example"


def write(host, path, data):
    place = f"{WEB}/{host}.{ZONE}/{path}"
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "wb") as out:
        out.write(data if isinstance(data, bytes) else data.encode())


def archive(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            made.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def python():
    wheel = "tiny-1.0-py3-none-any.whl"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("tiny.py", "ANSWER = 42\n")
        made.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        made.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr("tiny-1.0.dist-info/RECORD", "")
    write("python", f"files/{wheel}", out.getvalue())
    write("python", "simple/tiny/index.html", f'<a href="/files/{wheel}">{wheel}</a>')


def node():
    package = {"name": "tiny", "version": "1.0.0", "main": "index.js"}
    packed = archive({"package/package.json": json.dumps(package), "package/index.js": "module.exports = 42;\n"})
    digest = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
    dist = {"tarball": f"https://node.{ZONE}/files/tiny-1.0.0.tgz", "integrity": digest}
    write("node", "files/tiny-1.0.0.tgz", packed)
    write("node", "tiny", json.dumps({"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**package, "dist": dist}}}))


def rust():
    manifest = '[package]\nname = "tiny"\nversion = "1.0.0"\nedition = "2021"\n'
    crate = archive({"tiny-1.0.0/Cargo.toml": manifest, "tiny-1.0.0/src/lib.rs": "pub const ANSWER: u32 = 42;\n"})
    entry = {"name": "tiny", "vers": "1.0.0", "deps": [], "cksum": hashlib.sha256(crate).hexdigest(), "features": {}, "yanked": False}
    write("rust", "index/config.json", json.dumps({"dl": f"https://rust.{ZONE}/files"}))
    write("rust", "index/ti/ny/tiny", json.dumps(entry) + "\n")
    write("rust", "files/tiny/1.0.0/download", crate)


def git():
    script = f"""set -e
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
    git init -q {ROOT}/work; cd {ROOT}/work; echo 42 > answer; git add answer; git commit -qm first
    git clone -q --bare . {WEB}/git.{ZONE}/tiny.git; cd {WEB}/git.{ZONE}/tiny.git; git update-server-info"""
    subprocess.run(["sh", "-c", script], check=True)


def certificates():
    script = f"""set -e; cd {ROOT}
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ours -addext keyUsage=critical,keyCertSign
    openssl req -newkey rsa:2048 -nodes -keyout web.key -out web.csr -subj /CN=web
    printf 'subjectAltName=DNS:*.{ZONE}\\nextendedKeyUsage=serverAuth\\nbasicConstraints=CA:FALSE\\n' > web.ext
    openssl x509 -req -in web.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile web.ext -out web.pem"""
    subprocess.run(["sh", "-c", script], check=True, stderr=subprocess.DEVNULL)


def names(address):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", 53))
    while True:
        query, client = server.recvfrom(512)
        end = query.index(b"\0", 12) + 5
        is_ours = query[12:end - 5].lower().endswith(b"\4corp\7example")
        is_address = query[end - 4:end - 2] == b"\0\1"
        head = query[:2] + (b"\x85\x80" if is_ours else b"\x85\x83") + b"\0\1"
        if is_ours and is_address:
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + socket.inet_aton(address)
            server.sendto(head + b"\0\1\0\0\0\0" + query[12:end] + answer, client)
        else:
            server.sendto(head + b"\0\0\0\0\0\0" + query[12:end], client)


class Web(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def translate_path(self, path):
        self.directory = f"{WEB}/{self.headers['Host'].split(':')[0]}"
        return super().translate_path(path)

    def log_message(self, *words):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def get_request(self):
        # The handshake belongs to the connection's own thread.
        connection, client = super().get_request()
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), client


def main():
    os.makedirs(WEB)
    python(), node(), rust(), git(), certificates()
    server = Server(("", 443), Web)
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(f"{ROOT}/web.pem", f"{ROOT}/web.key")
    threading.Thread(target=names, args=(sys.argv[1],), daemon=True).start()
    with open(f"{ROOT}/ca.pem") as authority:
        print(authority.read() + "ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
