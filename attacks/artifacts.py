"""Leaves in the folder of artifacts what might lead whoever collects it astray."""

import os
import socket
import subprocess
import sys

OUT = "/workspace/output"


def make(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        print(arguments, error)


def main():
    marker = sys.argv[1]
    os.makedirs(OUT, exist_ok=True)
    os.chdir(OUT)
    for name, target in (("passwd", "/etc/passwd"), ("up", "../../../../etc/passwd"), ("root", "/"), ("loop", "loop"),
                         ("folder", ".."), ("self", "/proc/self"), ("spec", "../.swe-forge"), ("host", marker)):
        make(os.symlink, target, "link-" + name)
    make(os.link, "/etc/passwd", "hard-passwd")
    make(os.link, "/workspace/src/artifacts.py", "hard-own")
    make(os.mkfifo, "fifo")
    with socket.socket(socket.AF_UNIX) as stream:
        make(stream.bind, "socket")
    names = [b"new\nline", b"esc\x1b[2J", b"-rf", b"\xff\xfe", b"dot.", b"space ", b"Case", b"case", b"back\\slash",
             b"a" * 255, "\u202egnp.exe".encode(), b"colon:name", b"CON", b"quote'\"", b"$(touch x)", b"%s%n", b"*"]
    for name in names:
        with open(name, "wb") as file:
            file.write(b"content")
    os.mkdir("swap")
    with open("swap/file", "w") as file:
        file.write("inside")
    os.rename("swap", "swapped")
    make(os.symlink, "/etc", "swap")
    # A repository that runs a program for whoever looks at it with git.
    repository = OUT + "/repository"
    subprocess.run(["git", "init", "-q", repository], check=True)
    with open(repository + "/.git/config", "a") as file:
        file.write(f'[core]\n\tfsmonitor = "touch {marker}"\n\tpager = "touch {marker}"\n\tsshCommand = "touch {marker}"\n'
                   f'\thooksPath = hooks\n\tworktree = /etc\n[diff]\n\texternal = "touch {marker}"\n'
                   f'[filter "x"]\n\tsmudge = "touch {marker}"\n\tclean = "touch {marker}"\n')
    with open(repository + "/.git/objects/info/alternates", "w") as file:
        file.write("/etc\n")
    os.makedirs(repository + "/hooks")
    with open(repository + "/hooks/post-checkout", "w") as file:
        file.write(f"#!/bin/sh\ntouch {marker}\n")
    os.chmod(repository + "/hooks/post-checkout", 0o755)
    with open("unreadable", "w") as file:
        file.write("x")
    os.chmod("unreadable", 0)
    os.mkdir("closed")
    os.chmod("closed", 0)


if __name__ == "__main__":
    main()
