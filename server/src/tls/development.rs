//! Certificates for development: signed by themselves, in memory, and short-lived, as browsers want those that they
//! take by their hash (ECDSA, at most 14 days).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::pair::Pair;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// How long a certificate is valid: a day below what browsers allow.
const VALID_MS: u64 = 13 * DAY_MS;
/// By how much it begins in the past, for clients whose clock is behind.
const BEGINS_BEFORE_MS: u64 = HOUR_MS;
/// How long before its end the successor is made, and told to whoever asks for hashes.
const SUCCESSOR_BEFORE_MS: u64 = 4 * DAY_MS;
/// How long before its end the successor takes over.
const CHANGE_BEFORE_MS: u64 = DAY_MS;

/// The certificate of a node for development, and its successor when there is one.
#[derive(Debug)]
pub(super) struct Own {
    lan: Option<IpAddr>,
    current: Arc<Pair>,
    next: Option<Arc<Pair>>,
}

impl Own {
    pub(super) fn new(lan: Option<IpAddr>, now_ms: u64) -> Result<Self, String> {
        Ok(Self { lan, current: Arc::new(make(lan, now_ms)?), next: None })
    }

    pub(super) fn current(&self) -> Arc<Pair> {
        Arc::clone(&self.current)
    }

    /// All that a client may meet in the next days.
    pub(super) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        [Some(&self.current), self.next.as_ref()].into_iter().flatten().map(|pair| &**pair)
    }

    /// Makes the successor when it is time; gives it when it takes over.
    pub(super) fn renew(&mut self, now_ms: u64) -> Result<Option<Arc<Pair>>, String> {
        let left_ms = self.current.expires_at_ms().saturating_sub(now_ms);
        if left_ms <= SUCCESSOR_BEFORE_MS && self.next.is_none() {
            self.next = Some(Arc::new(make(self.lan, now_ms)?));
        }
        if left_ms > CHANGE_BEFORE_MS {
            return Ok(None);
        }
        Ok(self.next.take().inspect(|next| self.current = Arc::clone(next)))
    }
}

fn make(lan: Option<IpAddr>, now_ms: u64) -> Result<Pair, String> {
    let made = |error: rcgen::Error| format!("no certificate for development: {error}");
    let mut params = CertificateParams::default();
    let begins_ms = now_ms.saturating_sub(BEGINS_BEFORE_MS);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(begins_ms);
    params.not_after = params.not_before + Duration::from_millis(VALID_MS);
    params.distinguished_name.push(DnType::CommonName, "lanecast development");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().map_err(made)?)];
    let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].into_iter().chain(lan);
    params.subject_alt_names.extend(addresses.map(SanType::IpAddress));
    // P-256, which is what browsers take by its hash.
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(made)?;
    let certificate = params.self_signed(&key).map_err(made)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Pair::new(vec![certificate.der().clone()], key).map_err(|wrong| wrong.why)
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn a_browser_takes_it_by_its_hash() {
        let own = Own::new(Some("192.0.2.7".parse().unwrap()), NOW_MS).unwrap();
        let pair = own.current();
        let (_, certificate) = X509Certificate::from_der(pair.certificate()).unwrap();
        assert!(pair.begins_at_ms() < NOW_MS && pair.expires_at_ms() > NOW_MS);
        assert!(pair.expires_at_ms() - pair.begins_at_ms() <= 14 * DAY_MS);
        let key = certificate.public_key().parsed().unwrap();
        assert!(matches!(key, x509_parser::public_key::PublicKey::EC(point) if point.key_size() == 256));
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(names.contains(&GeneralName::DNSName("localhost")), "{names:?}");
        for address in [&[127, 0, 0, 1][..], &[192, 0, 2, 7], &Ipv6Addr::LOCALHOST.octets()] {
            assert!(names.contains(&GeneralName::IPAddress(address)), "{address:?}: {names:?}");
        }
    }

    #[test]
    fn the_successor_is_known_before_it_takes_over() {
        let mut own = Own::new(None, NOW_MS).unwrap();
        let first = own.current();
        let hashes = |own: &Own| own.pairs().map(|pair| pair.certificate().to_vec()).collect::<Vec<_>>();
        assert!(own.renew(NOW_MS + 8 * DAY_MS).unwrap().is_none());
        assert_eq!(hashes(&own).len(), 1);
        assert!(own.renew(NOW_MS + 10 * DAY_MS).unwrap().is_none());
        let announced = hashes(&own);
        assert_eq!((announced.len(), &announced[0][..]), (2, first.certificate()));
        let second = own.renew(NOW_MS + 12 * DAY_MS).unwrap().expect("the successor takes over");
        assert_eq!(second.certificate(), announced[1]);
        assert_eq!(hashes(&own), [announced[1].clone()]);
        assert!(second.expires_at_ms() > NOW_MS + 20 * DAY_MS);
    }

    #[test]
    fn a_node_that_slept_past_the_end_has_a_new_one_at_once() {
        let mut own = Own::new(None, NOW_MS).unwrap();
        let second = own.renew(NOW_MS + 100 * DAY_MS).unwrap().expect("the successor takes over");
        assert!(second.expires_at_ms() > NOW_MS + 110 * DAY_MS);
    }
}
