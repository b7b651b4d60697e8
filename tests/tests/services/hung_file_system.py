"""A file system in user space (FUSE) with one file, DIRECTORY/data. It answers until the file was opened, and never again.

It speaks the kernel's protocol (linux/fuse.h) itself, because libfuse may not be there.
"""
import ctypes, os, signal, struct, sys

INIT, LOOKUP, GETATTR, OPEN = 26, 1, 3, 14
directory = sys.argv[1].encode()
fuse = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"hung", directory, b"fuse", 0, options) != 0:
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))


def attributes(node):
    mode, links = (0o040755, 2) if node == 1 else (0o100644, 1)
    return struct.pack("<6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


def answer(unique, body=b"", error=0):
    os.write(fuse, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)


while True:
    request = os.read(fuse, 1 << 20)
    _, operation, unique, node = struct.unpack_from("<IIQQ", request)
    if operation == INIT:
        answer(unique, struct.pack("<IIIIHHIIHHI7I", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, *[0] * 8))
        print("mounted", flush=True)
    elif operation == LOOKUP and request[40:].rstrip(b"\0") == b"data":
        answer(unique, struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + attributes(2))
    elif operation == GETATTR:
        answer(unique, struct.pack("<Q2I", 0, 0, 0) + attributes(node))
    elif operation == OPEN:
        answer(unique, struct.pack("<Q2I", 1, 0, 0))
        break
    else:
        answer(unique, error=38)
signal.pause()
