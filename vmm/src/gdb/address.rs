//! Where a debugger connects: a Unix socket, or a TCP port of this host alone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a debugger connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GdbAddress {
    /// A Unix socket, which only its user may open.
    Unix(PathBuf),
    /// A TCP port, which every user of this host may open.
    Tcp(SocketAddr),
}

impl GdbAddress {
    /// As it is given, and read again: `unix:PATH` or `tcp:ADDRESS:PORT`.
    #[must_use]
    pub fn given(&self) -> String {
        match self {
            Self::Unix(_) => format!("unix:{self}"),
            Self::Tcp(_) => format!("tcp:{self}"),
        }
    }

    /// Whether who asks for this one is served by a door at `open`, which is shown as gdb takes it.
    pub(crate) fn is_at(&self, open: &str) -> bool {
        match self {
            Self::Tcp(any) if any.port() == 0 => {
                open.parse().is_ok_and(|open: SocketAddr| open.ip() == any.ip())
            }
            one => one.to_string() == open,
        }
    }
}

impl FromStr for GdbAddress {
    type Err = String;

    /// Reads `unix:PATH` or `tcp:[HOST:]PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        const USAGE: &str = "write unix:PATH, tcp:PORT or tcp:127.0.0.1:PORT";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(USAGE.to_owned()) } else { Ok(Self::Unix(path.into())) };
        }
        let rest = text.strip_prefix("tcp:").ok_or(USAGE)?;
        let (host, port) = rest.rsplit_once(':').unwrap_or(("127.0.0.1", rest));
        let port = port.parse().map_err(|_| USAGE)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let ip: IpAddr = match host {
            "" | "localhost" => Ipv4Addr::LOCALHOST.into(),
            host => host.parse().map_err(|_| format!("{host} is no address; {USAGE}"))?,
        };
        if !ip.is_loopback() {
            return Err(format!(
                "{ip} can be reached from other hosts, and whoever connects owns the guest; {USAGE} and forward it"
            ));
        }
        Ok(Self::Tcp(SocketAddr::new(ip, port)))
    }
}

impl fmt::Display for GdbAddress {
    /// What is given to gdb's `target remote`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_as_gdb_takes_them() {
        for (given, shown) in [
            ("unix:/run/gdb", "/run/gdb"),
            ("tcp:1234", "127.0.0.1:1234"),
            ("tcp::1234", "127.0.0.1:1234"),
            ("tcp:localhost:0", "127.0.0.1:0"),
            ("tcp:127.0.0.2:5", "127.0.0.2:5"),
            ("tcp:[::1]:5", "[::1]:5"),
        ] {
            let address = given.parse::<GdbAddress>();
            assert_eq!(address.as_ref().map(ToString::to_string), Ok(shown.to_owned()));
            assert_eq!(address.clone().and_then(|address| address.given().parse()), address);
        }
    }

    #[test]
    fn open_address_is_known_again_also_by_any_port() {
        let is_at = |given: &str, open| given.parse().map(|address: GdbAddress| address.is_at(open));
        for given in ["tcp:0", "tcp:7"] {
            assert_eq!(is_at(given, "127.0.0.1:7"), Ok(true));
            assert_eq!([is_at(given, "[::1]:7"), is_at(given, "/run/gdb")], [Ok(false), Ok(false)]);
        }
        assert_eq!(is_at("tcp:8", "127.0.0.1:7"), Ok(false));
        assert_eq!([is_at("unix:/a", "/a"), is_at("unix:/a", "/b")], [Ok(true), Ok(false)]);
    }

    #[test]
    fn address_that_other_hosts_reach_is_refused_in_words() {
        for given in ["tcp:0.0.0.0:1", "tcp:[::]:1", "tcp:192.0.2.1:1"] {
            let error = given.parse::<GdbAddress>().unwrap_err();
            assert!(error.contains("can be reached from other hosts"), "{error}");
        }
        for given in ["", "unix:", "tcp:", "tcp:70000", "tcp:gdb.example:1", "1234"] {
            assert!(given.parse::<GdbAddress>().unwrap_err().contains("write unix:PATH"), "{given}");
        }
    }
}
