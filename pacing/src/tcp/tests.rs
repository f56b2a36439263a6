use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Far beyond what anything here takes: what waits for it has hung.
const HANGS: Duration = Duration::from_secs(60);

/// A paced socket, and its peer with a small receive buffer.
async fn pair() -> (PacedTcp, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (PacedTcp::new(accepted), TcpStream::from_std(socket.into()).unwrap())
}

/// Bytes by their place, so that one that is lost or doubled shows.
fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes).map(|at| (at % 251) as u8).collect()
}

/// Writes until the socket takes no more for a while.
async fn fill(paced: &mut PacedTcp, mut written: usize) -> usize {
    loop {
        let chunk = pattern(written, 4 * 1024);
        tokio::select! {
            biased;
            taken = paced.write(&chunk) => written += taken.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(100)) => return written,
        }
    }
}

fn unsent(paced: &PacedTcp) -> u64 {
    kernel::info(paced.stream()).unwrap().unsent
}

async fn read_all(peer: &mut TcpStream, bytes: usize) {
    let mut read = vec![0; bytes];
    tokio::time::timeout(HANGS, peer.read_exact(&mut read)).await.unwrap().unwrap();
    assert!(read == pattern(0, bytes), "every byte once and in order");
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[tokio::test]
async fn a_peer_that_stops_reading_leaves_little_unsent() {
    let (mut paced, mut peer) = pair().await;
    let written = fill(&mut paced, 0).await;
    assert!(unsent(&paced) <= WRITABLE_BYTES + 4 * 1024, "{}", unsent(&paced));
    // Everything goes on once it reads.
    let rest = pattern(written, 2 * 1024 * 1024);
    let all = written + rest.len();
    let (sent, ()) = tokio::join!(paced.write_all(&rest), read_all(&mut peer, all));
    sent.unwrap();
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[tokio::test]
async fn without_pacing_the_kernel_takes_what_it_likes() {
    let (mut paced, _peer) = pair().await;
    paced.pace().set_paced(false);
    let filled = tokio::time::timeout(HANGS, async {
        while unsent(&paced) <= WRITABLE_BYTES + WRITE_BYTES_MAX as u64 {
            paced.write_all(&[0; 4 * 1024]).await.unwrap();
        }
    });
    filled.await.unwrap();
    assert!(paced.pace().has_room());
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[tokio::test]
async fn there_is_room_again_when_the_peer_reads() {
    let (mut paced, mut peer) = pair().await;
    let mut pace = paced.pace();
    assert!(pace.has_room());
    let written = fill(&mut paced, 0).await;
    assert!(!pace.has_room() && !pace.clone().has_room());
    let room = tokio::time::timeout(HANGS, std::future::poll_fn(|cx| pace.poll_room(cx)));
    let (room, ()) = tokio::join!(room, read_all(&mut peer, written));
    room.unwrap();
    // All of it was read, so acknowledged.
    let roomy = tokio::time::timeout(HANGS, async {
        while !pace.has_room() {
            std::future::poll_fn(|cx| pace.poll_room(cx)).await;
        }
    });
    roomy.await.unwrap();
}

#[tokio::test]
async fn a_handle_does_not_keep_the_socket_open() {
    let (paced, mut peer) = pair().await;
    let mut pace = paced.pace();
    drop(paced);
    let mut rest = Vec::new();
    tokio::time::timeout(HANGS, peer.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(pace.has_room());
    std::future::poll_fn(|cx| pace.poll_room(cx)).await;
    pace.set_paced(false);
}

#[tokio::test]
async fn slices_are_written_in_order_and_no_more_than_the_bound() {
    let (mut paced, mut peer) = pair().await;
    let bytes = pattern(0, 3 * WRITE_BYTES_MAX);
    let slices: Vec<IoSlice<'_>> = bytes.chunks(1_000).map(IoSlice::new).collect();
    assert!(paced.is_write_vectored());
    let written = paced.write_vectored(&slices).await.unwrap();
    assert!(0 < written && written <= WRITE_BYTES_MAX);
    let after_empty = [IoSlice::new(&[]), IoSlice::new(&bytes[written..written + 1])];
    let (after_empty, ()) = tokio::join!(paced.write_vectored(&after_empty), read_all(&mut peer, written + 1));
    assert_eq!(after_empty.unwrap(), 1);
}

#[tokio::test]
async fn both_directions_end_like_those_of_any_socket() {
    let (mut paced, mut peer) = pair().await;
    peer.write_all(&pattern(0, 100_000)).await.unwrap();
    peer.shutdown().await.unwrap();
    let mut read = Vec::new();
    tokio::time::timeout(HANGS, paced.read_to_end(&mut read)).await.unwrap().unwrap();
    assert!(read == pattern(0, 100_000));
    paced.write_all(&pattern(0, 10)).await.unwrap();
    paced.shutdown().await.unwrap();
    read_all(&mut peer, 10).await;
    assert_eq!(peer.read(&mut [0; 1]).await.unwrap(), 0);
}
