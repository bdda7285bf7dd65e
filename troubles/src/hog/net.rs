//! Networks: floods of packets, connections and requests to the victim's server, streams, and ports.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::act::{Hog, Victim, spin, take};

const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7411);
/// The time after which a client gives up.
const PATIENCE: Duration = Duration::from_millis(100);

/// Sends datagrams to the victim's server.
pub(super) fn packet_hog() -> io::Result<Hog> {
    let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    Hog::repeats(2, move |_| {
        for _ in 0..64 {
            // A limit refuses some of them.
            let _ = socket.send_to(&[0; 512], ADDRESS);
        }
        Ok(())
    })
}

/// A server answers datagrams. The progress is the number of answers that the victim's own client gets.
pub(super) fn packet_victim() -> io::Result<Victim> {
    let server = UdpSocket::bind(ADDRESS)?;
    thread::spawn(move || {
        let mut bytes = [0; 1024];
        loop {
            if let Ok((len, from)) = server.recv_from(&mut bytes) {
                spin(2000);
                // The sender may be gone.
                let _ = server.send_to(&bytes[..len], from);
            }
        }
    });
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut number = 0_u64;
    Ok(Victim::works(25, move || {
        number += 1;
        client.send_to(&number.to_le_bytes(), ADDRESS)?;
        let mut answer = [0; 8];
        // A late answer has an older number.
        while client.recv(&mut answer)? != 8 || u64::from_le_bytes(answer) != number {}
        Ok(())
    }))
}

/// Connects to the victim's server and says nothing.
pub(super) fn connection_hog() -> io::Result<Hog> {
    Hog::repeats(8, |_| {
        let result = TcpStream::connect_timeout(&ADDRESS.into(), Duration::from_secs(1));
        let mut stream = result.inspect_err(|_| thread::sleep(Duration::from_millis(5)))?;
        // The server closes the connection when it gives up.
        stream.read(&mut [0]).map(drop)
    })
}

fn ask() -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&ADDRESS.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// A server serves one connection after the other. The progress is the number of answers that the victim's own client
/// gets.
pub(super) fn connection_victim() -> io::Result<Victim> {
    let server = TcpListener::bind(ADDRESS)?;
    thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let served = stream.set_read_timeout(Some(Duration::from_millis(20)));
            // A client that says nothing is left after the time.
            let _ = served.and_then(|()| stream.read_exact(&mut [0])).and_then(|()| stream.write_all(b"!"));
        }
    });
    Ok(Victim::works(20, ask))
}

/// Sends one request after the other.
pub(super) fn request_hog() -> io::Result<Hog> {
    Hog::repeats(8, |_| ask().inspect_err(|_| thread::sleep(Duration::from_millis(5))))
}

/// Each request costs the server 10 ms of processor time, in a thread of its own. The progress is that of other work in
/// the same container.
pub(super) fn request_victim() -> io::Result<Victim> {
    let server = TcpListener::bind(ADDRESS)?;
    thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            thread::spawn(move || {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(10) {
                    spin(1000);
                }
                // The client may be gone.
                let _ = stream.read_exact(&mut [0]).and_then(|()| stream.write_all(b"!"));
            });
        }
    });
    Ok(Victim::Spin)
}

/// A TCP connection of this container to itself, whose other end reads all and answers each piece with a byte.
fn stream(piece: usize) -> io::Result<TcpStream> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(server.local_addr()?)?;
    let (mut other, _) = server.accept()?;
    thread::spawn(move || {
        let mut bytes = vec![0; piece];
        while other.read_exact(&mut bytes).and_then(|()| other.write_all(b"!")).is_ok() {}
    });
    Ok(client)
}

/// Sends as much as the network takes.
pub(super) fn stream_hog() -> io::Result<Hog> {
    const PIECE: usize = 32 << 10;
    let streams = (0..4).map(|_| Ok(Arc::new(stream(PIECE)?))).collect::<io::Result<Vec<_>>>()?;
    for stream in streams.clone() {
        thread::spawn(move || io::copy(&mut &*stream, &mut io::sink()));
    }
    Hog::repeats(streams.len(), move |thread| (&*streams[thread]).write_all(&[7; PIECE]))
}

/// Sends a piece and waits for its answer.
pub(super) fn stream_victim() -> io::Result<Victim> {
    const PIECE: usize = 8 << 10;
    let mut stream = stream(PIECE)?;
    stream.set_read_timeout(Some(10 * PATIENCE))?;
    Ok(Victim::works(20, move || {
        stream.write_all(&[7; PIECE])?;
        stream.read_exact(&mut [0])
    }))
}

/// The datagram of the row about memory for datagrams.
const DATAGRAM: [u8; 8 << 10] = [7; 8 << 10];

/// A socket that sends to itself.
fn to_itself() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(socket.local_addr()?)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends datagrams that no process receives, more than each socket keeps.
pub(super) fn datagram_hog() -> io::Result<Hog> {
    let (sockets, why) = take(100, || {
        let socket = to_itself()?;
        (0..24).try_for_each(|_| socket.send(&DATAGRAM).map(drop))?;
        Ok(socket)
    });
    Ok(Hog::holds(format!("{} full sockets, then: {why}", sockets.len()), sockets))
}

/// Sends a datagram and receives it.
pub(super) fn datagram_victim() -> io::Result<Victim> {
    Ok(Victim::tries(|| {
        let socket = to_itself()?;
        socket.send(&DATAGRAM)?;
        socket.recv(&mut [0; DATAGRAM.len()]).map(drop)
    }))
}

/// The number of ports of a network.
const PORTS: usize = 1 << 16;

/// Takes ports until there are no more.
pub(super) fn port_hog() -> io::Result<Hog> {
    let (sockets, why) = take(PORTS, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
    Ok(Hog::holds(format!("{} sockets, then: {why}", sockets.len()), sockets))
}

pub(super) fn port_victim() -> io::Result<Victim> {
    Ok(Victim::tries(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop)))
}
