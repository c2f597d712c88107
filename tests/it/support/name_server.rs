//! A DNS server on loopback that tells what the test wants to be told.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u8 = 5;
const TYPE_AAAA: u16 = 28;
const HEADER_BYTES: usize = 12;

/// A running name server. Names that it was not told do not exist. It stops when it is dropped.
pub(crate) struct NameServer {
    address: SocketAddr,
    names: Arc<Mutex<Names>>,
    failing: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
    answering: JoinHandle<()>,
}

#[derive(Default)]
struct Names {
    addresses: HashMap<String, Vec<IpAddr>>,
    aliases: HashMap<String, String>,
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let names = Arc::<Mutex<Names>>::default();
        let (failing, silent) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let answering = tokio::spawn(answer(socket, Arc::clone(&names), Arc::clone(&failing), Arc::clone(&silent)));
        Self { address, names, failing, silent, answering }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every question is answered with a failure of the server's own (SERVFAIL), or no more.
    pub(crate) fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// No question is answered at all, or each again.
    pub(crate) fn hush(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    /// From now on, `name` is another name for `target`.
    pub(crate) fn alias(&self, name: &str, target: &str) {
        self.names.lock().unwrap().aliases.insert(name.to_owned(), target.to_owned());
    }

    /// From now on, `name` has these addresses. Answers must not be cached.
    pub(crate) fn tell(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.names.lock().unwrap().addresses.insert(name.to_owned(), addresses);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

async fn answer(socket: UdpSocket, names: Arc<Mutex<Names>>, failing: Arc<AtomicBool>, silent: Arc<AtomicBool>) {
    let mut buffer = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let reply = reply_to(&buffer[..length], &names.lock().unwrap());
        if silent.load(Ordering::SeqCst) {
            continue;
        }
        if let Some(mut reply) = reply {
            if failing.load(Ordering::SeqCst) {
                // No answers, and the code of a server that failed.
                reply.truncate(question_end(&reply));
                reply[3] = 0x80 | 2;
                reply[7] = 0;
            }
            let _ = socket.send_to(&reply, client).await;
        }
    }
}

/// Where the one question of a message ends.
fn question_end(message: &[u8]) -> usize {
    let mut at = HEADER_BYTES;
    while message[at] != 0 {
        at += usize::from(message[at]) + 1;
    }
    at + 5
}

/// The answer to a query with one question, as RFC 1035 has it.
fn reply_to(query: &[u8], names: &Names) -> Option<Vec<u8>> {
    let mut labels: Vec<&str> = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(std::str::from_utf8(query.get(at..at + length)?).ok()?);
        at += length;
    }
    let question = query.get(HEADER_BYTES..at + 4)?;
    let wanted = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let name = labels.join(".").to_lowercase();
    let alias = names.aliases.get(&name);
    let known = names.addresses.get(alias.unwrap_or(&name));
    let matching: Vec<&IpAddr> = known.into_iter().flatten().filter(|address| type_of(address) == wanted).collect();

    let no_such_name = if known.is_some() || alias.is_some() { 0 } else { 3 };
    let answers = matching.len() + usize::from(alias.is_some());
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([0x81, 0x80 | no_such_name, 0, 1, 0, u8::try_from(answers).ok()?, 0, 0, 0, 0]);
    reply.extend(question);
    // The records are those of the question's name, or of the name that the alias leads to.
    let mut owner = vec![0xc0, HEADER_BYTES as u8];
    if let Some(target) = alias {
        let mut encoded: Vec<u8> =
            target.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
        encoded.push(0);
        reply.extend(owner);
        reply.extend([0, TYPE_CNAME, 0, 1, 0, 0, 0, 0, 0, encoded.len() as u8]);
        reply.extend(&encoded);
        owner = encoded;
    }
    for address in matching {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        // Whose it is, its type, class IN, no time to live.
        reply.extend(&owner);
        reply.extend([0, wanted as u8, 0, 1, 0, 0, 0, 0, 0, octets.len() as u8]);
        reply.extend(octets);
    }
    Some(reply)
}

fn type_of(address: &IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => TYPE_A,
        IpAddr::V6(_) => TYPE_AAAA,
    }
}
