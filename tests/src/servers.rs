//! Runs small servers with known faults, and one without a fault.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// What a server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Read the request, reply, close.
    Reply,
    /// Read the whole request with its chunked body, reply, close. A client that closes its side without a request is closed too.
    Whole,
    /// Read the request, reply 503, close.
    Unavailable,
    /// Read the request, close without a byte.
    Empty,
    /// Read the request, reset.
    Reset,
    /// Read the request, reply late.
    Late(Duration),
    /// Accept and keep the connection open, without a reply, until the server is dropped.
    Silent,
}

/// A server on its own thread, in the namespace of the thread that starts it. When it is dropped, it stops listening.
pub struct Server {
    /// The address that it listens on.
    pub address: SocketAddr,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` (port 0: any free port) and reacts to each connection like this.
    pub fn start(address: &str, reaction: Reaction) -> Server {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("bind {address}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let accepting = listener.try_clone().expect("dup");
        let thread = std::thread::spawn(move || serve(&accepting, reaction));
        Server { address, listener, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // This wakes accept, in whichever namespace it runs.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, reaction: Reaction) {
    let mut open = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        match reaction {
            Reaction::Silent => open.push(stream),
            // Each connection has its own thread: connections that are kept open must not delay others.
            _ => drop(std::thread::spawn(move || react(stream, reaction))),
        }
    }
}

fn react(mut stream: TcpStream, reaction: Reaction) {
    if reaction == Reaction::Whole {
        return reply_to_whole(&mut stream);
    }
    let mut request = [0; 1024];
    if stream.read(&mut request).unwrap_or(0) == 0 {
        return;
    }
    match reaction {
        Reaction::Reply => reply(&mut stream, "200 OK"),
        Reaction::Unavailable => reply(&mut stream, "503 Service Unavailable"),
        Reaction::Late(delay) => {
            std::thread::sleep(delay);
            reply(&mut stream, "200 OK");
        }
        Reaction::Reset => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER"),
        Reaction::Empty | Reaction::Silent | Reaction::Whole => {}
    }
}

fn reply_to_whole(stream: &mut TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    let contains =
        |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text));
    let is_whole = |request: &[u8]| match contains(request, b"transfer-encoding: chunked") {
        true => request.ends_with(b"\r\n0\r\n\r\n"),
        false => request.ends_with(b"\r\n\r\n"),
    };
    while !is_whole(&request) {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    reply(stream, "200 OK");
}

fn reply(stream: &mut TcpStream, status: &str) {
    let _ = write!(stream, "HTTP/1.0 {status}\r\nContent-Length: 3\r\n\r\nok\n");
}

/// A listener whose accept queue is full and that accepts nothing: SYNs to it are dropped.
pub struct FullListener {
    /// The address that it listens on.
    pub address: SocketAddr,
    listener: Socket,
    queued: Vec<TcpStream>,
}

impl FullListener {
    /// Listens and fills the queue.
    pub fn start() -> FullListener {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("constant").into()).expect("bind");
        listener.listen(0).expect("listen");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("an inet address");
        // A backlog of zero still has room for one connection.
        let queued = vec![TcpStream::connect(address).expect("the first connection fits")];
        FullListener { address, listener, queued }
    }

    /// Makes room: the next SYN, which may be a retransmitted one, is answered, and every connection gets a reply.
    pub fn serve_all(self, connections: usize) {
        drop(self.queued);
        for _ in 0..=connections {
            let (socket, _) = self.listener.accept().expect("accept");
            react(socket.into(), Reaction::Reply);
        }
    }
}
