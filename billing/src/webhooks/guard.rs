//! Where a webhook may lead. A workspace names the address, Farebox calls it from inside its own network: so only public
//! addresses are called, whatever a name resolves to at that moment, and no redirect is followed.
//!
//! Names are resolved here and the connection goes to exactly what was judged; there is no second look-up that could
//! answer differently.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// A name that leads nowhere a webhook may go.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` leads to no public address")]
pub struct NotPublic(pub String);

/// Networks that may be called although they are not public.
#[derive(Debug, Clone, Default)]
pub struct Guard(Arc<[IpNet]>);

impl Guard {
    /// `networks`: as in the configuration, where they were checked.
    pub fn new(networks: &[String]) -> Self {
        Self(networks.iter().filter_map(|network| network.parse().ok()).collect())
    }

    fn allows(&self, address: IpAddr) -> bool {
        is_public(address) || self.0.iter().any(|network| network.contains(&address))
    }

    /// What is wrong with an address before anything is looked up.
    pub fn check(&self, url: &Url) -> Result<(), &'static str> {
        match url.scheme() {
            "https" => {}
            // Without TLS only where the operator knows the network.
            "http" if !self.0.is_empty() => {}
            _ => return Err("must begin with https://"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user name or password: deliveries are signed instead");
        }
        if url.fragment().is_some() {
            return Err("must not have a fragment (`#...`)");
        }
        let public = match url.host() {
            None => false,
            Some(Host::Domain(name)) => !name.trim_end_matches('.').is_empty(),
            Some(Host::Ipv4(address)) => self.allows(address.into()),
            Some(Host::Ipv6(address)) => self.allows(address.into()),
        };
        if public { Ok(()) } else { Err("must lead to a public address") }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| guard.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(NotPublic(name.as_str().to_owned()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is someone's on the public Internet: by IANA's registries of special-purpose addresses. One that
/// carries an IPv4 address is judged by that.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        // Shared by carriers.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        // Relays of 6to4, and measurements between networks.
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        // Multicast, reserved, broadcast.
        || a >= 224)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let part = address.segments();
    let embedded = |high: u16, low: u16| is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    // IPv4 as such, behind a translator, and in 6to4.
    if let [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] = part {
        return embedded(high, low);
    }
    let protocols = part[0] == 0x2001 && part[1] < 0x0200;
    let documentation = (part[0] == 0x2001 && part[1] == 0x0db8) || (part[0] == 0x3fff && part[1] < 0x1000);
    // Global unicast is all that is given to anybody.
    part[0] & 0xe000 == 0x2000 && !protocols && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in
            ["93.184.216.34", "1.1.1.1", "100.63.255.255", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"]
        {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for private in [
            "127.0.0.1",
            "127.255.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
        ] {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
    }

    #[test]
    fn an_address_is_judged_before_it_is_kept() {
        let check = |guard: &Guard, url: &str| guard.check(&url.parse().expect("an address")).is_ok();
        let strict = Guard::default();
        assert!(check(&strict, "https://hooks.example.com/farebox?a=b") && check(&strict, "https://1.1.1.1/"));
        for refused in [
            "http://hooks.example.com/",
            "ftp://hooks.example.com/",
            "https://user@hooks.example.com/",
            "https://hooks.example.com/#part",
            "https://127.0.0.1/",
            "https://[::1]/",
            // The many ways to write 127.0.0.1.
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::ffff:7f00:1]/",
            "https://169.254.169.254/latest/meta-data",
        ] {
            assert!(!check(&strict, refused), "{refused}");
        }
        let known = Guard::new(&["127.0.0.0/8".to_owned()]);
        assert!(check(&known, "http://127.0.0.1:8080/") && !check(&known, "http://10.0.0.1/") && !check(&known, "http://[::1]/"));
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_called() {
        let resolved =
            |guard: Guard| async move { guard.resolve("localhost".parse().expect("a name")).await.map(Iterator::collect::<Vec<_>>) };
        let error = resolved(Guard::default()).await.expect_err("refused");
        assert!(error.downcast_ref::<NotPublic>().is_some(), "{error}");
        let found = resolved(Guard::new(&["127.0.0.0/8".to_owned()])).await.expect("allowed");
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().to_string() == "127.0.0.1"), "{found:?}");
    }
}
