#!/usr/bin/python3
"""Stands in for HAProxy 1.5 to 1.7, which no registry has. It does what those versions do as far as a reload is concerned.

It binds TCP with SO_REUSEPORT, and a Unix path under a temporary name that it renames. It has no -x, no expose-fd, no
master, and no `show cli sockets`. SIGUSR1 ends it when its connections have ended; -sf sends that signal to old ones. Of
its configuration it reads only the addresses, and every frontend answers 200.
"""
import os
import selectors
import signal
import socket
import sys

# In the source of 1.5 to 2.2 (uxst_bind_listener) listen(2) comes before rename(2), from 2.3 on behind it.
LISTENS_FIRST = True
BANNER = "HA-Proxy version 1.5.18 2016/05/10"
UNKNOWN = ("expose-fd", "close-spread-time", "hard-stop-after", "master-worker", "nbthread")


def die(message):
    sys.exit(f"[ALERT] {message}")


def read_command_line(words):
    options = {"-f": [], "-p": None, "-sf": [], "-D": False, "-c": False}
    while words:
        word = words.pop(0)
        if word == "-v":
            print(BANNER)
            sys.exit(0)
        if word == "-f":
            options["-f"].append(words.pop(0))
        elif word == "-p":
            options["-p"] = words.pop(0)
        elif word == "-sf":
            while words and words[0].isdigit():
                options["-sf"].append(int(words.pop(0)))
        elif word in ("-D", "-c"):
            options[word] = True
        elif word not in ("-db", "-q", "-V"):
            die(f"unknown option {word}")
    return options


def read_configuration(files):
    """Gives each address with its kind: traffic or cli."""
    found = []
    for name in files:
        with open(name) as file:
            for number, line in enumerate(file, 1):
                text = os.path.expandvars(line.split("#")[0]).strip()
                # Quotes came with 1.6.
                if '"' in text or any(word in text for word in UNKNOWN):
                    die(f"parsing [{name}:{number}] : 1.5 does not understand `{text}`")
                words = text.split()
                if words[:2] == ["stats", "socket"]:
                    found.append((words[2], "cli"))
                elif words[:1] == ["bind"]:
                    found += [(address, "traffic") for address in words[1].split(",")]
    return found


def bind_path(path):
    temporary = f"{path}.{os.getpid()}.tmp"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(temporary)
    if LISTENS_FIRST:
        listener.listen(1024)
        os.rename(temporary, path)
    else:
        os.rename(temporary, path)
        os.sched_yield()
        listener.listen(1024)
    return listener


def bind(address):
    path = address[len("unix@"):] if address.startswith("unix@") else address
    if path.startswith("/"):
        return bind_path(path)
    host, port = address.rsplit(":", 1)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host if host not in ("", "*") else "0.0.0.0", int(port)))
    listener.listen(1024)
    return listener


def cli(command):
    if command.startswith(b"show info"):
        return f"Name: HAProxy\nVersion: 1.5.18\nPid: {os.getpid()}\nCurrConns: 0\nConnRate: 0\n\n".encode()
    return b"Unknown command. Please enter one of the following commands only :\n  help           : this message\n\n"


def exchange(connection, kind, received):
    """Answers what is complete. Gives what is left, or None when the connection is done."""
    try:
        data = connection.recv(4096)
        received += data
        if kind == "cli" and b"\n" in received:
            connection.sendall(cli(received))
            return None
        if kind == "traffic" and b"\r\n\r\n" in received:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            return None
    except BlockingIOError:
        return received
    except OSError:
        return None
    return received if data else None


def serve(listeners):
    poller = selectors.DefaultSelector()
    ended, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(0) if number == signal.SIGTERM else None)
    poller.register(ended, selectors.EVENT_READ)
    for listener, kind in listeners:
        listener.setblocking(False)
        poller.register(listener, selectors.EVENT_READ, kind)
    connections = {}
    while listeners or connections:
        for key, _ in poller.select():
            if key.fileobj is ended:
                ended.recv(4096)
                for listener, _ in listeners:
                    poller.unregister(listener)
                    listener.close()
                listeners = []
            elif key.fileobj in connections:
                kind, received = connections[key.fileobj]
                left = exchange(key.fileobj, kind, received)
                connections[key.fileobj] = (kind, left)
                if left is None:
                    del connections[key.fileobj]
                    poller.unregister(key.fileobj)
                    key.fileobj.close()
            elif key.fileobj.fileno() != -1:
                try:
                    connection, _ = key.fileobj.accept()
                except BlockingIOError:
                    continue
                connection.setblocking(False)
                connections[connection] = (key.data, b"")
                poller.register(connection, selectors.EVENT_READ)


def main():
    options = read_command_line(sys.argv[1:])
    addresses = read_configuration(options["-f"])
    if not addresses:
        die("no listener")
    if options["-c"]:
        print("Configuration file is valid")
        sys.exit(0)
    listeners = [(bind(address), kind) for address, kind in addresses]
    if options["-D"] and os.fork():
        os._exit(0)
    if options["-p"]:
        with open(options["-p"], "w") as file:
            file.write(f"{os.getpid()}\n")
    for old in options["-sf"]:
        os.kill(old, signal.SIGUSR1)
    serve(listeners)


main()
