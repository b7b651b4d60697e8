"""Connects and reports it: client.py KIND ADDRESS PORT. It does what Rust's sockets cannot do without unsafe code."""
import fcntl, socket, struct, subprocess, sys

kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET


def report_greeting(sock):
    print(sock.recv(5).decode(), flush=True)


def options():
    sock = socket.socket(family)
    if family == socket.AF_INET:
        # Eight times "no operation".
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 8)
    else:
        padding = b"\x00\x00\x01\x04\x00\x00\x00\x00"
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, padding)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, padding)
    sock.connect((address, port))
    report_greeting(sock)


def fastopen():
    sock = socket.socket(family)
    sock.sendto(b"x" * 1000, socket.MSG_FASTOPEN, (address, port))
    report_greeting(sock)


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def tun():
    """Creates a device without a link header, sends a SYN to ADDRESS through it, and prints the flags of the answer."""
    tun = open("/dev/net/tun", "r+b", buffering=0)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", b"tun0", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
    subprocess.check_call(["ip", "addr", "add", address + "/24", "dev", "tun0"])
    subprocess.check_call(["ip", "link", "set", "tun0", "up"])
    print("up", flush=True)
    sys.stdin.readline()
    source = socket.inet_aton(address[: address.rindex(".")] + ".99")
    target = socket.inet_aton(address)
    tcp = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 2, 65535, 0, 0)
    pseudo = source + target + struct.pack("!BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + source + target
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    tun.write(ip + tcp)
    while True:
        packet = tun.read(2000)
        if packet[0] >> 4 == 4 and packet[9] == 6:
            print("flags %#x" % packet[33], flush=True)
            return


{"options": options, "fastopen": fastopen, "tun": tun}[kind]()
