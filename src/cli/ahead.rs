//! Uploads of layers while later steps run, and of large ones while they are made. The export then finds them in the
//! registry, or waits for what is still on its way. What fails here is tried again there, and told there; what a build
//! that fails has uploaded, nothing names.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, Scope},
};

use rbuild::{
    build::{Departures, Services},
    layer::Compression,
    oci::{Descriptor, Digest},
    output::{LayerOptions, OutputSpec},
    reference::Reference,
    registry::{Claim, Client, GrowingUpload, OpenAt, Upload},
    store::{Follower, Growth, Store},
};

/// How many layers are sent at a time; the steps are to have the machine.
const AT_A_TIME: usize = 2;

/// How a build compresses its layers: as its outputs want them, if they want the same. A layer that one wants otherwise
/// is compressed anew for it, as one is that an earlier build has made for other outputs.
pub(crate) fn compression(outputs: &[OutputSpec]) -> Compression {
    let mut wanted = outputs.iter().filter_map(|spec| match spec {
        OutputSpec::Image(image) => Some(image.image.layers),
        OutputSpec::Archive(archive) => Some(archive.image.layers),
        OutputSpec::CacheOnly | OutputSpec::Local(_) | OutputSpec::Tar(_) => None,
    });
    let first = wanted.next().unwrap_or_default();
    let is_one = wanted.all(|other| other.compression == first.compression);
    // What becomes eStargz is written anew in any case.
    if is_one && !first.estargz {
        first.compression.unwrap_or_default()
    } else {
        Compression::default()
    }
}

/// Whether an output takes layers of this build as they are.
fn leaves_as_made(options: LayerOptions, compression: Compression) -> bool {
    options.compression.unwrap_or_default() == compression
        && !options.estargz
        && !options.rewrite_timestamp
}

/// The repositories that layers will be pushed to as they are, each once.
pub(crate) fn targets(outputs: &[OutputSpec], names: &[Reference]) -> Vec<Reference> {
    let compression = compression(outputs);
    let mut targets: Vec<Reference> = Vec::new();
    for spec in outputs {
        let OutputSpec::Image(image) = spec else {
            continue;
        };
        if !image.push || !leaves_as_made(image.image.layers, compression) {
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

/// Calls `work` with services that have layers uploaded to `targets` as they are made, and with what is to be called when
/// the build is done: the export sends what is left, more at a time. When it returns, none is on its way any more.
pub(crate) fn uploading<T>(
    targets: &[Reference],
    services: &Services<'_>,
    work: impl FnOnce(&Services<'_>, &dyn Fn()) -> T,
) -> T {
    if targets.is_empty() {
        return work(services, &|| {});
    }
    let quay = Quay {
        registry: services.registry,
        store: services.store,
        targets,
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    let done = std::thread::scope(|scope| {
        let _closing = Closing(&quay);
        let loading = Loading { quay: &quay, scope };
        let services = Services {
            departures: Some(&loading),
            ..*services
        };
        work(&services, &|| quay.close())
    });
    services.registry.expect_no_more();
    done
}

/// Where layers wait to be sent.
struct Quay<'a> {
    registry: &'a Client,
    store: &'a Store,
    targets: &'a [Reference],
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Layers that are whole, and where they go.
    queue: VecDeque<(Descriptor, Vec<Reference>)>,
    n_workers: usize,
    /// Layers in the making.
    growing: Vec<Growing>,
    n_growing: usize,
    is_closed: bool,
}

/// A layer on its way to a registry while it is made.
struct Growing {
    number: usize,
    layer: Follower,
    to: Reference,
    /// Set when it turns out to belong to the image.
    wanted: Option<Wanted>,
}

struct Wanted {
    layer: Descriptor,
    /// `None` if somebody else sends it already.
    claim: Option<Claim>,
}

impl Quay<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, nothing more is begun.
    fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    /// The first target in each registry; the others have blobs mounted from there.
    fn firsts(&self) -> impl Iterator<Item = &Reference> {
        let targets = self.targets.iter().enumerate();
        targets.filter_map(|(n, target)| {
            let mut before = self.targets[..n].iter();
            before
                .all(|other| other.registry() != target.registry())
                .then_some(target)
        })
    }

    /// Sends layers that are whole until there are no more.
    fn work(&self) {
        loop {
            let state = self.state();
            let mut state = self
                .changed
                .wait_while(state, |state| state.queue.is_empty() && !state.is_closed)
                .unwrap_or_else(PoisonError::into_inner);
            if state.is_closed {
                return;
            }
            let Some((layer, targets)) = state.queue.pop_front() else {
                continue;
            };
            drop(state);
            for to in &targets {
                self.send(to, &layer);
            }
        }
    }

    fn send(&self, to: &Reference, layer: &Descriptor) {
        let open = || self.open(&layer.digest);
        let upload = Upload {
            descriptor: layer,
            open: &open,
            mount_from: &[],
            is_new: true,
            progress: None,
        };
        let _told_by_the_export = self.registry.push_blob(to, &upload).is_ok();
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let file = self.store.open_blob(digest).map_err(io::Error::other)?;
        Ok(Box::new(file))
    }

    /// Sends a layer while it is made, and the end of it once it is known to be wanted.
    fn follow(&self, number: usize, to: &Reference, layer: &Follower) {
        let upload = self.send_growing(to, layer);
        let Some(Wanted { layer, claim }) = self.wanted(number) else {
            if let Some(upload) = upload {
                upload.give_up();
            }
            return;
        };
        match (upload, claim) {
            (Some(upload), Some(claim)) => {
                let open = || self.open(&layer.digest);
                let whole = Upload {
                    descriptor: &layer,
                    open: &open,
                    mount_from: &[],
                    is_new: false,
                    progress: None,
                };
                let _told_by_the_export = upload.finish(&claim, &whole).is_ok();
            }
            (upload, claim) => {
                if let Some(upload) = upload {
                    upload.give_up();
                }
                drop(claim);
                self.send(to, &layer);
            }
        }
        for other in self.targets {
            if other.registry() == to.registry() && other.name() != to.name() {
                self.send(other, &layer);
            }
        }
    }

    /// Sends what there is of a layer until it is whole; `None` when that went wrong.
    fn send_growing(&self, to: &Reference, layer: &Follower) -> Option<GrowingUpload<'_>> {
        let from = layer.at(0);
        let open: Box<OpenAt> = Box::new(move |position| Ok(Box::new(from.at(position))));
        let mut upload = self.registry.push_growing(to, open)?;
        loop {
            match layer.wait_beyond(upload.next()) {
                Growth::Growing(_) => upload.advance().ok()?,
                Growth::Complete(..) => return Some(upload),
                Growth::GivenUp => {
                    upload.give_up();
                    return None;
                }
            }
        }
    }

    /// Waits until a layer turns out to belong to the image; `None` when the build is over without that.
    fn wanted(&self, number: usize) -> Option<Wanted> {
        let is_open = |state: &mut State| {
            let mut growing = state.growing.iter();
            let own = growing.find(|growing| growing.number == number);
            own.is_some_and(|growing| growing.wanted.is_none()) && !state.is_closed
        };
        let state = self.state();
        let mut state = self
            .changed
            .wait_while(state, is_open)
            .unwrap_or_else(PoisonError::into_inner);
        let index = state.growing.iter().position(|g| g.number == number)?;
        state.growing.swap_remove(index).wanted
    }
}

/// Closes the quay also when the build panics: its threads are waited for.
struct Closing<'a>(&'a Quay<'a>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Where the build brings its layers.
struct Loading<'scope, 'env> {
    quay: &'scope Quay<'scope>,
    scope: &'scope Scope<'scope, 'env>,
}

impl Departures for Loading<'_, '_> {
    fn expected(&self) {
        for to in self.quay.firsts() {
            self.quay.registry.expect_blobs(to);
        }
    }

    fn growing(&self, layer: Follower) {
        for to in self.quay.firsts() {
            let follower = layer.at(0);
            let mut state = self.quay.state();
            let is_underway = |g: &&Growing| matches!(g.layer.growth(), Growth::Growing(_));
            if state.growing.iter().filter(is_underway).count() >= AT_A_TIME || state.is_closed {
                return;
            }
            let number = state.n_growing;
            state.n_growing += 1;
            let (quay, target) = (self.quay, to.clone());
            let theirs = layer.at(0);
            let thread = Builder::new().name("upload".to_owned());
            let spawned = thread.spawn_scoped(self.scope, move || {
                quay.follow(number, &target, &theirs);
            });
            if spawned.is_ok() {
                state.growing.push(Growing {
                    number,
                    layer: follower,
                    to: to.clone(),
                    wanted: None,
                });
            }
        }
    }

    fn made(&self, layer: &Descriptor) {
        let quay = self.quay;
        let mut targets = quay.targets.to_vec();
        let mut state = quay.state();
        for growing in &mut state.growing {
            let is_it = matches!(growing.layer.growth(), Growth::Complete(_, digest) if digest == layer.digest);
            if is_it && growing.wanted.is_none() {
                targets.retain(|target| target.registry() != growing.to.registry());
                growing.wanted = Some(Wanted {
                    layer: layer.clone(),
                    claim: quay.registry.claim_blob(&growing.to, layer.digest),
                });
            }
        }
        if !targets.is_empty() {
            state.queue.push_back((layer.clone(), targets));
            if state.n_workers < AT_A_TIME {
                let thread = Builder::new().name("upload".to_owned());
                let spawned = thread.spawn_scoped(self.scope, || quay.work());
                state.n_workers += usize::from(spawned.is_ok());
            }
        }
        drop(state);
        quay.changed.notify_all();
    }
}
