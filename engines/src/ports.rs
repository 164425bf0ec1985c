//! Free ports for the engines, the same ones again at the next start where possible.

use std::net::TcpListener;

use serde::{Deserialize, Serialize};

/// Ports of the engines on 127.0.0.1; `None` is a free one. PostgreSQL listens on its socket only,
/// unless it is given a port.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ports {
    pub kafka: Option<u16>,
    pub kafka_controller: Option<u16>,
    pub clickhouse: Option<u16>,
    pub postgres: Option<u16>,
    pub stripe: Option<u16>,
}

/// Below the range from which Linux takes the ports of outgoing connections, so that an engine that is
/// restarted finds its port still free.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// The wished port, or the one of last time, or any free one.
pub fn choose(wished: Option<u16>, last: Option<u16>, taken: &mut Vec<u16>) -> u16 {
    if let Some(port) = wished {
        taken.push(port);
        return port;
    }
    let random = std::iter::repeat_with(|| rand::random_range(RANGE));
    let free = last.into_iter().chain(random).find(|port| !taken.contains(port) && is_free(*port)).expect("an endless iterator");
    taken.push(free);
    free
}

pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Whether something answers a connection.
pub fn answers(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}
