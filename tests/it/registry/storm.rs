//! Many pushes and pulls while everything that can go wrong does: whatever a transfer reports as done is right.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rbuild::{
    oci::{Descriptor, Manifest, MediaType, sha256, to_json},
    registry::{Client, Settings, settings::Retry},
};

use super::{is_blob_get, noise, pull, push, quick, reference, with_login};
use crate::support::{FakeRegistry, Fault, Received, Wants};

/// How many images are pushed and pulled, unless `RBUILD_STORM` says another number.
const N_IMAGES: u64 = 60;

/// A stream of numbers that is the same in every run.
struct Dice(AtomicU64);

impl Dice {
    fn roll(&self, sides: u64) -> u64 {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        let digest = sha256(&n.to_le_bytes());
        let bytes = [digest.as_bytes()[0], digest.as_bytes()[1]];
        u64::from(u16::from_le_bytes(bytes)) % sides
    }
}

fn misfortune(dice: &Dice, received: &Received) -> Option<Fault> {
    if received.target == "/v2/" || dice.roll(3) != 0 {
        return None;
    }
    let len: usize = received.header("content-length").parse().unwrap_or(0);
    let somewhere = usize::try_from(dice.roll(1 << 16)).unwrap_or(0);
    Some(match dice.roll(10) {
        0 => Fault::Answer(429, vec![("Retry-After", "0".to_owned())], vec![]),
        1 => Fault::Answer(500, vec![], b"oops".to_vec()),
        2 => Fault::Answer(503, vec![], vec![]),
        3 => Fault::Drop,
        4 if received.method == "GET" => Fault::CutAnswer(somewhere),
        5 if len > 0 => Fault::CutRequest(somewhere % len),
        6 if received.target.contains("/uploads/") => Fault::ForgetUploads,
        7 => Fault::NoRanges,
        8 => Fault::Late(Duration::from_millis(5)),
        9 => Fault::DropAnswer,
        _ => return None,
    })
}

/// Each transfer breaks at another place: within the first bytes, the last, and all along.
#[test]
fn a_reset_at_any_byte_does_no_harm() {
    const N_BYTES: usize = 1_200_000;
    let bytes = noise(N_BYTES);
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, &bytes);
    let places = (0..24).map(|i| i * N_BYTES / 24);
    for (i, place) in places
        .chain([1, 2, N_BYTES - 2, N_BYTES - 1, N_BYTES])
        .enumerate()
    {
        let fake = FakeRegistry::start();
        let image = reference(&fake.host(), "app:1");
        let n_broken = AtomicU64::new(0);
        fake.faults(move |r, _| {
            let is_body = matches!(r.method.as_str(), "PUT" | "PATCH");
            let len: usize = r.header("content-length").parse().unwrap_or(0);
            // Every other request breaks, so that going on breaks as well.
            let is_turn = (is_body || is_blob_get(r))
                && n_broken.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            match (is_turn, is_body) {
                (true, true) => Some(Fault::CutRequest(place.min(len))),
                (true, false) => Some(Fault::CutAnswer(place)),
                _ => None,
            }
        });
        let client = Client::new(Settings {
            chunk_bytes: (i % 2 == 1).then_some(500_000),
            ..quick()
        })
        .expect("a client can be made");
        push(&client, &image, &bytes, &[]).expect("in the end");
        assert!(fake.blob("app", descriptor.digest).as_ref() == Some(&bytes));
        assert_eq!(fake.n_uploads(), 0, "{place}: {:#?}", fake.lines());
        assert!(pull(&client, &image, &descriptor).expect("in the end") == bytes);
    }
}

#[test]
fn what_is_reported_as_done_is_right() {
    let fake = FakeRegistry::start();
    fake.wants(Wants::Bearer {
        login: Some("me:pw"),
        n_uses: 7,
    });
    let dice = Arc::new(Dice(AtomicU64::new(0)));
    fake.faults(move |received, _| misfortune(&dice, received));
    let mut settings = with_login(&fake.host(), "me:pw");
    settings.retry = Retry {
        attempts: 20,
        ..quick().retry
    };
    let layers: Vec<Vec<u8>> = [1, 3000, 60_000, 90_000].map(noise).to_vec();
    let n_images = std::env::var("RBUILD_STORM").map_or(N_IMAGES, |text| {
        text.parse().expect("RBUILD_STORM is a number")
    });
    let mut n_given_up = 0;
    let mut done = Vec::new();
    for i in 0..n_images {
        let client = Client::new(Settings {
            chunk_bytes: (i % 2 == 0).then_some(25_000),
            ..settings.clone()
        })
        .expect("a client can be made");
        let image = reference(&fake.host(), &format!("app{i}:1"));
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"author":"{i}"}}"#
        );
        let mut blobs = layers.clone();
        blobs.push(config.clone().into_bytes());
        let pushed = std::thread::scope(|scope| {
            let workers: Vec<_> = blobs
                .iter()
                .map(|bytes| scope.spawn(|| push(&client, &image, bytes, &[])))
                .collect();
            workers
                .into_iter()
                .all(|worker| worker.join().expect("no panic").is_ok())
        });
        let manifest = to_json(&Manifest::new(
            Descriptor::of(MediaType::OCI_CONFIG, config.as_bytes()),
            layers
                .iter()
                .map(|bytes| Descriptor::of(MediaType::OCI_LAYER, bytes))
                .collect(),
        ));
        let is_tagged = pushed
            && client
                .push_manifest(&image, &MediaType::OCI_MANIFEST, &manifest)
                .is_ok();
        if !is_tagged {
            n_given_up += 1;
            continue;
        }
        // What the registry has, seen past all faults.
        assert_eq!(
            fake.manifest(&format!("app{i}"), "1").as_ref(),
            Some(&manifest)
        );
        for bytes in &blobs {
            let stored = fake.blob(&format!("app{i}"), sha256(bytes));
            assert!(stored.as_ref() == Some(bytes), "image {i}");
        }
        done.push((i, manifest.clone(), config.clone()));
        let fresh = Client::new(settings.clone()).expect("a client can be made");
        let Ok(got) = fresh.manifest(&image) else {
            n_given_up += 1;
            continue;
        };
        assert_eq!(got.bytes, manifest);
        for (descriptor, bytes) in got
            .manifest()
            .expect("a manifest")
            .layers
            .iter()
            .zip(&layers)
        {
            match pull(&fresh, &image, descriptor) {
                Ok(pulled) => assert!(pulled == *bytes, "image {i}"),
                Err(_) => n_given_up += 1,
            }
        }
    }
    // Nothing was lost meanwhile.
    for (i, manifest, config) in &done {
        let repository = format!("app{i}");
        assert_eq!(fake.manifest(&repository, "1").as_ref(), Some(manifest));
        for bytes in layers.iter().map(Vec::as_slice).chain([config.as_bytes()]) {
            let stored = fake.blob(&repository, sha256(bytes));
            assert!(stored.as_deref() == Some(bytes), "image {i}");
        }
    }
    #[expect(clippy::print_stderr, reason = "figures are for people")]
    {
        eprintln!(
            "{n_images} images pushed and pulled, {n_given_up} transfers given up, none wrong"
        );
    }
    assert!(
        n_given_up <= 2 + n_images / 100,
        "{n_given_up} transfers were given up"
    );
}
