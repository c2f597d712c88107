//! The resolver gate: names become addresses here, and only here.
//!
//! Every answer is judged; one forbidden answer refuses the name as a whole, so that a name cannot pass by chance of
//! order. The client dials exactly the addresses that this gate returns, so there is no second lookup to lie to.
//!
//! A lookup ends within [`LOOKUP_LIMIT`] and fails like an unknown name when the system has no resolver configuration or
//! no network. The hosts file counts, and its addresses are judged like others. The configuration is read at the first
//! lookup that finds it readable, and not again.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::address::special_use;
use super::dial;
use super::policy::EgressPolicy;
use super::url::UrlRefusal;

/// Longest time for one name, waiting for a free slot included.
const LOOKUP_LIMIT: Duration = Duration::from_secs(4);
/// Lookups under way at once in the process; further ones wait, within their own limit. As many as there are attempts at
/// a time by default: those of one tenant are bounded by its permits, and what it stores by `actors::lookups`.
const MAX_CONCURRENT_LOOKUPS: usize = 512;
/// Time for one query to one server; one more try follows, both within [`LOOKUP_LIMIT`].
const QUERY_LIMIT: Duration = Duration::from_secs(2);
/// How many addresses of each family are dialled, four in all; a receiver without IPv6 is still found behind many of its
/// IPv6 addresses.
const MAX_ADDRESSES_PER_FAMILY: usize = 2;
/// How long "no such name" is remembered at most.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// How long an answer is remembered at most, so that a receiver that moves is found again.
const MAX_POSITIVE_TTL: Duration = Duration::from_secs(300);
/// Answers remembered.
const CACHED_ANSWERS: u64 = 4096;

/// Resolves names and judges every answer. Clones share one cache and one bound.
#[derive(Clone)]
pub(super) struct GuardedResolver {
    shared: Arc<Shared>,
}

struct Shared {
    policy: Arc<EgressPolicy>,
    name_servers: Vec<SocketAddr>,
    slots: Semaphore,
    /// Empty until the system's configuration could be read.
    resolver: Mutex<Option<TokioResolver>>,
}

impl GuardedResolver {
    /// Asks `name_servers`, or the system's where there are none.
    pub(super) fn new(policy: Arc<EgressPolicy>, name_servers: Vec<SocketAddr>) -> Self {
        let slots = Semaphore::new(MAX_CONCURRENT_LOOKUPS);
        Self { shared: Arc::new(Shared { policy, name_servers, slots, resolver: Mutex::new(None) }) }
    }

    /// The addresses to dial for `host`, at most four: `HostUnresolved` when there are none in time,
    /// `AddressForbidden` when the policy forbids any of the answers, for that port.
    pub(super) async fn addresses(&self, host: &str, port: Option<u16>) -> Result<Vec<IpAddr>, UrlRefusal> {
        let answers = tokio::time::timeout(LOOKUP_LIMIT, self.look_up(host))
            .await
            .map_err(|_| UrlRefusal::HostUnresolved)?
            .map_err(|error| {
                tracing::debug!(%error, "a host name did not resolve");
                UrlRefusal::HostUnresolved
            })?;
        judge(&answers, port, &self.shared.policy)
    }

    /// Everything that the name servers answer, of both families.
    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        let _slot = self.shared.slots.acquire().await.map_err(|_| NetError::Busy)?;
        // The final dot keeps the system's search list out.
        let answer = self.shared.resolver()?.lookup_ip(format!("{host}.")).await?;
        Ok(answer.iter().collect())
    }
}

impl Shared {
    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut slot = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = &*slot {
            return Ok(resolver.clone());
        }
        let resolver = build(&self.name_servers)?;
        *slot = Some(resolver.clone());
        Ok(resolver)
    }
}

fn build(name_servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = name_servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_parts(None, vec![], servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.timeout = QUERY_LIMIT;
    options.attempts = 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    options.cache_size = CACHED_ANSWERS;
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options.positive_max_ttl = Some(MAX_POSITIVE_TTL);
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn judge(answers: &[IpAddr], port: Option<u16>, policy: &EgressPolicy) -> Result<Vec<IpAddr>, UrlRefusal> {
    let forbidden = |address: &&IpAddr| !policy.permits_resolved(**address) || policy.is_own(**address, port);
    if let Some(forbidden) = answers.iter().find(forbidden) {
        // For the operator alone: the tenant is not told what stands behind the name.
        let why = special_use(*forbidden).unwrap_or("denied by the operator, or where we listen ourselves");
        tracing::warn!(address = %forbidden, why, "a host name resolves to an address that the egress rules forbid");
        return Err(UrlRefusal::AddressForbidden);
    }
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = answers.iter().map(IpAddr::to_canonical).partition(IpAddr::is_ipv4);
    let dialled: Vec<IpAddr> =
        [v4, v6].into_iter().flat_map(|family| family.into_iter().take(MAX_ADDRESSES_PER_FAMILY)).collect();
    if dialled.is_empty() { Err(UrlRefusal::HostUnresolved) } else { Ok(dialled) }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let gate = self.clone();
        Box::pin(async move {
            let addresses = gate.addresses(name.as_str(), dial::port()).await?;
            // Port 0 leaves the port to the URL.
            Ok(Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::Hosts;

    use super::*;

    fn judged(answers: &[&str]) -> Result<Vec<String>, UrlRefusal> {
        let answers: Vec<IpAddr> = answers.iter().map(|text| text.parse().expect("an address")).collect();
        Ok(judge(&answers, None, &EgressPolicy::default())?.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn one_forbidden_answer_refuses_the_name_wherever_it_stands() {
        for answers in [
            &["10.0.0.1"][..],
            &["10.0.0.1", "8.8.8.8"],
            &["8.8.8.8", "10.0.0.1"],
            &["8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "2606:4700::1", "::1"],
            &["8.8.8.8", "::ffff:169.254.169.254"],
        ] {
            assert_eq!(judged(answers), Err(UrlRefusal::AddressForbidden), "{answers:?}");
        }
    }

    #[tokio::test]
    async fn the_hosts_file_counts_and_its_addresses_are_judged_like_others() {
        let mut hosts = Hosts::default();
        let file = "10.0.0.5 inside.example.com\nfd00::5 inside.example.com\n8.8.8.8 outside.example.com\n2606:4700::1 outside.example.com\n";
        hosts.read_hosts_conf(file.as_bytes()).expect("a hosts file");
        // Nobody is asked: both names have addresses of both families.
        let nobody = vec!["127.0.0.1:9".parse().expect("an address")];
        let mut resolver = build(&nobody).expect("a resolver");
        resolver.set_hosts(Arc::new(hosts));
        let gate = GuardedResolver::new(Arc::new(EgressPolicy::default()), nobody);
        *gate.shared.resolver.lock().expect("nobody panicked") = Some(resolver);
        assert_eq!(gate.addresses("inside.example.com", Some(443)).await, Err(UrlRefusal::AddressForbidden));
        let outside = gate.addresses("outside.example.com", Some(443)).await.expect("they are public");
        assert_eq!(outside[0], IpAddr::from([8, 8, 8, 8]));
    }

    #[test]
    fn no_answer_is_an_unresolved_name() {
        assert_eq!(judged(&[]), Err(UrlRefusal::HostUnresolved));
    }

    #[test]
    fn at_most_four_addresses_are_dialled_and_both_families_have_their_share() {
        let answers = ["2606:4700::1", "2606:4700::2", "2606:4700::3", "8.8.8.8", "8.8.4.4", "1.1.1.1"];
        assert_eq!(judged(&answers).expect("all public"), ["8.8.8.8", "8.8.4.4", "2606:4700::1", "2606:4700::2"]);
    }

    #[test]
    fn a_mapped_answer_is_dialled_as_the_address_that_was_judged() {
        assert_eq!(judged(&["::ffff:8.8.8.8"]).expect("public"), ["8.8.8.8"]);
    }
}
