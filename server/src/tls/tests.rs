use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::tempdir;

use super::testing::{Authority, write};
use super::*;

fn wrong(files: &Files) -> Vec<(File, String)> {
    files.read().unwrap_err().into_iter().map(|wrong| (wrong.file, wrong.why)).collect()
}

fn tls(files: &Files) -> Arc<Tls> {
    let pair = Arc::new(files.read().unwrap());
    Arc::new(Tls::of_files(files.clone(), pair, Clock::system()).unwrap())
}

/// Watches until the certificate, or the count of failures, is another one.
async fn wait_for_change(tls: &Tls, metrics: &Metrics) {
    let (before, failures) = (tls.certificate(), metrics.certificate_reloads.of(Reload::Failed).get());
    let changed = async {
        while tls.certificate() == before && metrics.certificate_reloads.of(Reload::Failed).get() == failures {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = tls.watch(metrics) => {}
        () = changed => {}
    }
}

fn certificate_in(file: &Path) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_file(file).unwrap().to_vec()
}

#[test]
fn every_mistake_of_both_files_is_said() {
    let folder = tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue();
    let files = write(folder.path(), &(String::new(), "nothing".to_owned()));
    let found = wrong(&files);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].0 == File::Certificate && found[0].1.contains("holds no certificate"), "{found:?}");
    assert!(found[1].0 == File::Key && found[1].1.contains("holds no private key"), "{found:?}");

    write(folder.path(), &(certificate.clone(), authority.issue().1));
    assert_eq!(wrong(&files), [(File::Key, "is not the key of the certificate".to_owned())]);

    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    write(folder.path(), &(certificate.clone(), encrypted.to_owned()));
    assert!(wrong(&files)[0].1.contains("encrypted with a password"));

    write(folder.path(), &(certificate[..certificate.len() / 2].to_owned(), key.clone()));
    assert_eq!(wrong(&files)[0].0, File::Certificate, "half written");

    std::fs::remove_file(&files.certificate).unwrap();
    assert!(wrong(&files)[0].1.contains("cannot be read"));
}

#[test]
fn one_file_may_hold_both_and_a_chain() {
    let folder = tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue();
    let other = authority.issue().0;
    let files = write(folder.path(), &(format!("{key}{certificate}{other}"), String::new()));
    let pair = Files { key: files.certificate.clone(), ..files }.read().unwrap();
    assert_eq!(pair.chain().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn replaced_files_are_taken_and_broken_ones_are_not() {
    let folder = tempdir().unwrap();
    let authority = Authority::new();
    let (first, second) = (authority.issue(), authority.issue());
    let files = write(folder.path(), &first);
    let (tls, metrics) = (tls(&files), Metrics::new());
    let of_first = certificate_in(&files.certificate);

    std::fs::write(&files.certificate, &second.0).unwrap();
    wait_for_change(&tls, &metrics).await;
    assert_eq!(tls.certificate(), of_first, "a certificate without its key is not used");
    assert_eq!(metrics.certificate_reloads.of(Reload::Failed).get(), 1);

    std::fs::write(&files.key, &second.1).unwrap();
    wait_for_change(&tls, &metrics).await;
    assert_eq!(tls.certificate(), certificate_in(&files.certificate));
    assert_eq!(metrics.certificate_reloads.of(Reload::Done).get(), 1);
    assert_eq!(metrics.certificate_expires.get() as u64, tls.expires_at_ms() / 1_000);

    std::fs::remove_file(&files.key).unwrap();
    wait_for_change(&tls, &metrics).await;
    assert_eq!(metrics.certificate_reloads.of(Reload::Failed).get(), 2, "and a file that is gone changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_points_elsewhere_is_a_change() {
    // As Kubernetes mounts secrets: tls.crt -> ..data/tls.crt, ..data -> a folder, replaced by rename.
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    for version in ["v1", "v2"] {
        std::fs::create_dir(at(version)).unwrap();
        write(&at(version), &authority.issue());
    }
    symlink("v1", at("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), at(name)).unwrap();
    }
    let (tls, metrics) = (tls(&Files { certificate: at("tls.crt"), key: at("tls.key") }), Metrics::new());
    symlink("v2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    wait_for_change(&tls, &metrics).await;
    assert_eq!(tls.certificate(), certificate_in(&at("v2/tls.crt")));
}

#[test]
fn only_the_certificate_for_development_has_hashes() {
    let folder = tempdir().unwrap();
    let files = write(folder.path(), &Authority::new().issue());
    assert!(tls(&files).hashes().is_empty());
    let tls = Tls::development(None, Clock::system()).unwrap();
    let hash: [u8; 32] = Sha256::digest(tls.certificate()).into();
    assert_eq!(tls.hashes(), [hash]);
}

#[test]
fn tickets_end_with_the_certificate() {
    let tickets = Tickets::new().unwrap();
    let ticket = rustls::server::ProducesTickets::encrypt(&tickets, b"session").unwrap();
    assert_eq!(rustls::server::ProducesTickets::decrypt(&tickets, &ticket).unwrap(), b"session");
    tickets.renew().unwrap();
    assert_eq!(rustls::server::ProducesTickets::decrypt(&tickets, &ticket), None);
}
