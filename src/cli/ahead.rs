//! Uploads of finished layers while later steps run. The export then finds them in the registry. What fails here is
//! tried again there, and told there; what a build that fails has uploaded, nothing names.

use std::{
    io::{self, Read},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use rbuild::{
    build::Services,
    oci::Descriptor,
    output::{LayerOptions, OutputSpec},
    reference::Reference,
    registry::{Client, Upload},
    store::Store,
};

/// How many layers are sent at a time; the steps are to have the machine.
const AT_A_TIME: usize = 2;

/// The repositories that layers will be pushed to as they are, each once.
pub(crate) fn targets(outputs: &[OutputSpec], names: &[Reference]) -> Vec<Reference> {
    let mut targets: Vec<Reference> = Vec::new();
    for spec in outputs {
        let OutputSpec::Image(image) = spec else {
            continue;
        };
        if !image.push || image.image.layers != LayerOptions::default() {
            continue;
        }
        let names = if names.is_empty() {
            &image.image.names
        } else {
            names
        };
        for name in names {
            if targets.iter().all(|target| target.name() != name.name()) {
                targets.push(name.clone());
            }
        }
    }
    targets
}

/// Calls `build` with services that have layers uploaded to `targets` as they are made. When it returns, none is on its
/// way any more.
pub(crate) fn uploading<T>(
    targets: &[Reference],
    services: &Services<'_>,
    build: impl FnOnce(&Services<'_>) -> T,
) -> T {
    if targets.is_empty() {
        return build(services);
    }
    let (sender, queue) = channel();
    let queue = Mutex::new(queue);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(blob) = next(&queue).filter(|_| !over.load(Ordering::Relaxed)) {
                    for target in targets {
                        send(services.registry, services.store, target, &blob);
                    }
                }
            });
        }
        let built = build_with(services, sender, build);
        // The export sends what is left, more at a time.
        over.store(true, Ordering::Relaxed);
        built
    })
}

fn build_with<T>(
    services: &Services<'_>,
    sender: Sender<Descriptor>,
    build: impl FnOnce(&Services<'_>) -> T,
) -> T {
    let made = move |blob: &Descriptor| {
        // Those who would take it live until the build is done.
        let _sent = sender.send(blob.clone()).is_ok();
    };
    build(&Services {
        made: Some(&made),
        ..*services
    })
}

fn next(queue: &Mutex<Receiver<Descriptor>>) -> Option<Descriptor> {
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .recv()
        .ok()
}

fn send(registry: &Client, store: &Store, to: &Reference, blob: &Descriptor) {
    let open = || -> io::Result<Box<dyn Read + Send>> {
        let file = store.open_blob(&blob.digest).map_err(io::Error::other)?;
        Ok(Box::new(file))
    };
    let upload = Upload {
        descriptor: blob,
        open: &open,
        mount_from: &[],
        progress: None,
    };
    let _told_by_the_export = registry.push_blob(to, &upload).is_ok();
}
