//! The files of this machine that a build may use: the context and named contexts. Each is opened once, when first
//! needed.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    request::{ContextSource, NamedSource},
    session::Session,
};
use crate::{
    context::{ContextError, LocalTree, Patterns, StatCache},
    tree::{EmptyTree, Tree},
};

type Opened = Mutex<HashMap<String, Arc<dyn Tree>>>;

/// What was opened so far.
#[derive(Default)]
pub(super) struct Contexts {
    main: Mutex<Option<Arc<dyn Tree>>>,
    named: Opened,
    caches: Mutex<Vec<Arc<StatCache>>>,
}

impl Contexts {
    /// The build context.
    pub(super) fn main(&self, session: &Session<'_>) -> Result<Arc<dyn Tree>, ContextError> {
        let mut main = self.main.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = &*main {
            return Ok(Arc::clone(tree));
        }
        let tree: Arc<dyn Tree> = match &session.request.context {
            ContextSource::Directory { path, patterns } => {
                self.open(session, path.clone(), patterns.clone())?
            }
            ContextSource::Tree(tree) => Arc::clone(tree),
            ContextSource::Empty => Arc::new(EmptyTree),
        };
        *main = Some(Arc::clone(&tree));
        Ok(tree)
    }

    /// A named context that is a directory.
    pub(super) fn named(
        &self,
        session: &Session<'_>,
        name: &str,
    ) -> Result<Arc<dyn Tree>, ContextError> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = named.get(name) {
            return Ok(Arc::clone(tree));
        }
        let tree: Arc<dyn Tree> = match session.request.named_contexts.get(name) {
            Some(NamedSource::Directory { path, patterns }) => {
                self.open(session, path.clone(), patterns.clone())?
            }
            Some(NamedSource::Tree(tree, _)) => Arc::clone(tree),
            // Planning lets only names of directories come here.
            Some(NamedSource::Image(_) | NamedSource::Layout { .. }) | None => Arc::new(EmptyTree),
        };
        named.insert(name.to_owned(), Arc::clone(&tree));
        Ok(tree)
    }

    fn open(
        &self,
        session: &Session<'_>,
        path: PathBuf,
        patterns: Patterns,
    ) -> Result<Arc<dyn Tree>, ContextError> {
        let services = session.services;
        let name = crate::oci::sha256(path.as_os_str().as_encoded_bytes()).hex();
        let file = services.store.stat_dir().join(name);
        let cache = Arc::new(StatCache::load(file, services.file_time()));
        let tree = LocalTree::open(path, patterns, Some(Arc::clone(&cache)))?;
        self.caches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(cache);
        Ok(Arc::new(tree))
    }

    /// Keeps what was learnt about files for the next build. That it cannot be kept costs time, nothing else.
    pub(super) fn save(&self) {
        for cache in self
            .caches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            cache.save().ok();
        }
    }
}
