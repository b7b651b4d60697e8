"""Runs HTTP/3 clients: client.py HOST PORT RATE LONG-LIVED REQUEST-TIMEOUT, until standard input ends.

Prints a JSON object for each connection.

New connections start at a fixed rate, whether or not earlier ones have ended, and make one request each. Long-lived ones make
ten requests per second, and connect again when the server closes them."""
import asyncio, json, ssl, sys

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted

HOST, PORT, RATE, LONG_LIVED, REQUEST_TIMEOUT = sys.argv[1], *map(int, sys.argv[2:])
CONFIGURATION = QuicConfiguration(alpn_protocols=H3_ALPN, server_name="reloader.test", verify_mode=ssl.CERT_NONE)
HEADERS = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"reloader.test"), (b":path", b"/")]


class Client(QuicConnectionProtocol):
    def __init__(self):
        super().__init__(QuicConnection(configuration=CONFIGURATION))
        self.http = H3Connection(self._quic)
        self.handshake_done = False
        self.answered = 0
        self.end = self._loop.create_future()
        self.replies = {}

    def quic_event_received(self, event):
        self.handshake_done |= isinstance(event, HandshakeCompleted)
        if isinstance(event, ConnectionTerminated) and not self.end.done():
            self.end.set_result(f"{event.error_code:#x} {event.reason_phrase}".strip())
        for http_event in self.http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.status = dict(http_event.headers).get(b":status")
            if isinstance(http_event, (HeadersReceived, DataReceived)) and http_event.stream_ended and http_event.stream_id in self.replies:
                self.replies.pop(http_event.stream_id).set_result(self.status)

    async def request(self):
        """Makes a request. Returns the reason of a failure, or None."""
        if self.end.done():
            return f"closed: {self.end.result()}"
        stream = self._quic.get_next_available_stream_id()
        reply = self.replies[stream] = self._loop.create_future()
        self.http.send_headers(stream, HEADERS, end_stream=True)
        self.transmit()
        await asyncio.wait([reply, self.end], timeout=REQUEST_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            return f"closed: {self.end.result()}" if self.end.done() else "timeout"
        self.answered += 1
        return None if reply.result() == b"200" else f"status {reply.result()}"


def report(**fields):
    print(json.dumps(fields), flush=True)


async def open_one(due):
    """Opens a connection and makes its first request."""
    loop = asyncio.get_running_loop()
    local = ("::" if ":" in HOST else "0.0.0.0", 0)
    transport, client = await loop.create_datagram_endpoint(Client, local_addr=local)
    report(kind="started")
    client.connect((HOST, PORT))
    failure = await client.request()
    ms = round(1000 * (loop.time() - due), 1)
    report(kind="new", ms=ms, failure=failure, handshake_done=client.handshake_done)
    return transport, client, failure


async def once(due):
    transport, client, _ = await open_one(due)
    client.close()
    transport.close()


async def long_lived(stop):
    while not stop.done():
        transport, client, failure = await open_one(asyncio.get_running_loop().time())
        is_served = failure is None
        while failure is None and not stop.done() and not client.end.done():
            await asyncio.wait([stop, client.end], timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
            failure = None if stop.done() or client.end.done() else await client.request()
        if is_served:
            end = client.end.result() if client.end.done() else None
            report(kind="long-lived", answered=client.answered, failure=failure, end=end)
        client.close()
        transport.close()


async def main():
    loop = asyncio.get_running_loop()
    stop = loop.create_future()
    loop.add_reader(sys.stdin, lambda: sys.stdin.readline() or stop.done() or stop.set_result(None))
    tasks = [asyncio.ensure_future(long_lived(stop)) for _ in range(LONG_LIVED)]
    due = loop.time()
    while not stop.done():
        tasks.append(asyncio.ensure_future(once(due)))
        due += 1 / RATE
        await asyncio.wait([stop], timeout=max(0, due - loop.time()))
    await asyncio.gather(*tasks)


asyncio.run(main())
