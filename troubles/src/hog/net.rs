//! Networks: floods of packets, connections and requests to the victim's server, streams, and ports.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

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

/// The largest datagram of the rows about memory and neighbours.
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

/// Makes a network of 65534 addresses behind an interface of this name. No one else is there.
fn ethernet(name: &str, network: u8) -> io::Result<()> {
    // An earlier hog of the container has made it.
    if fs::read_to_string("/proc/net/dev")?.contains(&format!("{name}0:")) {
        return Ok(());
    }
    let commands = format!(
        "link add {name}0 type veth peer name {name}1\naddr add 10.{network}.0.1/16 dev {name}0\n\
         link set {name}0 up\nlink set {name}1 up\n"
    );
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    ip.stdin.take().map_or(Ok(()), |mut input| input.write_all(commands.as_bytes()))?;
    if ip.wait()?.success() { Ok(()) } else { Err(io::Error::other("ip could not make an interface")) }
}

/// Sends a datagram to the address with this number. The kernel then looks for the neighbour that has it.
fn to_neighbour(network: u8, number: u16) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Without this option, send(2) hides that the table of neighbours is full.
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    let [high, low] = number.to_be_bytes();
    socket.send_to(b"?", (Ipv4Addr::new(10, network, high, low), 9)).map(drop)
}

/// Returns the numbers of neighbours, again and again.
fn next_number(numbers: &AtomicU16) -> u16 {
    2 + numbers.fetch_add(1, Ordering::Relaxed) % 60_000
}

/// Looks for neighbours, more than the table of the host has room for.
pub(super) fn neighbour_hog() -> io::Result<Hog> {
    ethernet("hog", 2)?;
    let numbers = Arc::new(AtomicU16::new(0));
    let look = move |_| {
        (0..2000).for_each(|_| {
            // A limit or the full table refuses some of them.
            let _ = to_neighbour(2, next_number(&numbers));
        });
        Ok(())
    };
    Hog::repeats(2, look)
}

/// Looks for a neighbour that is not in the table.
pub(super) fn neighbour_victim() -> io::Result<Victim> {
    ethernet("victim", 1)?;
    let numbers = AtomicU16::new(0);
    Ok(Victim::tries(move || to_neighbour(1, next_number(&numbers))))
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
