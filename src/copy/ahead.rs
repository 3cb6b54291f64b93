//! Listing directories before they are asked for.
//!
//! Whoever walks a tree asks for directories in the order of the walk. Other threads list those that come next, so that
//! waiting for the system and what is made of its answers happen at the same time. How much is listed ahead is bounded.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, Scope},
};

use crate::tree::{self, Listed, Tree, TreeError};

/// How many names are listed ahead, give or take a directory.
const MAX_AHEAD: usize = 2048;
/// More threads than this do not make one file system faster.
const MAX_THREADS: usize = 4;
/// As many directories have to wait before another thread is worth its start.
const FEW: usize = 4;

type Names = Result<Vec<Listed>, TreeError>;
type Held<'a> = MutexGuard<'a, State>;

/// Lists directories of a tree.
pub(super) struct Lister<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared<'env>,
    others: Cell<Others>,
}

/// The other threads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Unwanted,
    NotYet,
    Running,
}

struct Shared<'t> {
    tree: &'t dyn Tree,
    state: Mutex<State>,
    changed: Condvar,
}

/// Directories by their path's text: that is compared faster than paths are.
#[derive(Default)]
struct State {
    /// To be listed; the next one is last.
    todo: Vec<OsString>,
    busy: HashSet<OsString>,
    done: HashMap<OsString, Names>,
    /// How many names are done, one more for each directory.
    n_done: usize,
    /// How many threads wait for something to change: telling nobody costs a call of the system, too.
    n_waiting: usize,
    is_over: bool,
}

/// Lets `walk` list directories of a tree. A walk that leaves out directories wants no others `ahead`.
pub(super) fn listing<T>(
    tree: &dyn Tree,
    ahead: bool,
    walk: impl for<'scope, 'env> FnOnce(&Lister<'scope, 'env>) -> T,
) -> T {
    let shared = Shared {
        tree,
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        let _over = Over(&shared);
        walk(&Lister {
            scope,
            shared: &shared,
            others: Cell::new(if ahead && !tree.lists_at_once() {
                Others::NotYet
            } else {
                Others::Unwanted
            }),
        })
    })
}

/// Ends the other threads, also when the walk panics.
struct Over<'a, 't>(&'a Shared<'t>);

impl Drop for Over<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Lister<'_, '_> {
    /// What is in a directory, see [`Tree::list`].
    pub(super) fn list(&self, dir: &Path) -> Names {
        let shared = self.shared;
        if self.others.get() == Others::Unwanted {
            return shared.tree.list(dir);
        }
        let name = dir.as_os_str();
        let mut state = shared.lock();
        loop {
            if let Some(names) = state.done.remove(name) {
                state.n_done -= weight(&names);
                shared.tell(state);
                return names;
            }
            if !state.busy.contains(name) {
                break;
            }
            // Meanwhile, a directory that comes later.
            state = match state.next() {
                Some(next) => shared.list_ahead(state, next),
                None => shared.wait(state),
            };
        }
        if let Some(at) = state.todo.iter().rposition(|todo| todo == name) {
            state.todo.remove(at);
        }
        drop(state);
        let names = shared.tree.list(dir);
        let mut state = shared.lock();
        state.push(dir, &names);
        let is_worth_it = state.todo.len() >= FEW;
        shared.tell(state);
        if self.others.get() == Others::NotYet && is_worth_it {
            self.start();
        }
        names
    }

    fn start(&self) {
        self.others.set(Others::Running);
        let n_threads = thread::available_parallelism().map_or(1, usize::from);
        for _ in 1..n_threads.min(MAX_THREADS) {
            let shared = self.shared;
            self.scope.spawn(move || shared.work());
        }
    }
}

fn weight(names: &Names) -> usize {
    1 + names.as_ref().map_or(0, Vec::len)
}

impl State {
    /// The directory to list ahead next; `None` when there is none, or enough is listed.
    fn next(&mut self) -> Option<OsString> {
        (self.n_done < MAX_AHEAD).then(|| self.todo.pop())?
    }

    /// Notes the directories in one that was listed.
    fn push(&mut self, dir: &Path, names: &Names) {
        let names = names.iter().flatten().rev();
        let dirs = names.filter(|listed| listed.node.metadata.is_dir());
        self.todo
            .extend(dirs.map(|listed| tree::child(dir, &listed.name).into_os_string()));
    }
}

/// Lets nobody wait for a thread that panics.
struct Leaves<'a, 't>(&'a Shared<'t>);

impl Drop for Leaves<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().busy.clear();
            self.0.changed.notify_all();
        }
    }
}

impl Shared<'_> {
    fn work(&self) {
        let _leaves = Leaves(self);
        let mut state = self.lock();
        while !state.is_over {
            state = match state.next() {
                Some(next) => self.list_ahead(state, next),
                None => self.wait(state),
            };
        }
    }

    /// Lists a directory that will be asked for.
    fn list_ahead<'a>(&'a self, mut state: Held<'a>, next: OsString) -> Held<'a> {
        state.busy.insert(next.clone());
        drop(state);
        let path = PathBuf::from(next);
        let names = self.tree.list(&path);
        state = self.lock();
        state.push(&path, &names);
        state.n_done += weight(&names);
        let name = path.into_os_string();
        state.busy.remove(&name);
        state.done.insert(name, names);
        if state.n_waiting > 0 {
            self.changed.notify_all();
        }
        state
    }

    /// Lets go of the state, which was changed.
    fn tell(&self, state: Held<'_>) {
        let is_awaited = state.n_waiting > 0;
        drop(state);
        if is_awaited {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> Held<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: Held<'a>) -> Held<'a> {
        state.n_waiting += 1;
        let mut state = self
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.n_waiting -= 1;
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::memory::MemoryTree;

    fn walk(lister: &Lister<'_, '_>, dir: &Path, found: &mut Vec<PathBuf>) {
        for listed in lister.list(dir).unwrap() {
            let path = dir.join(&listed.name);
            let is_dir = listed.node.metadata.is_dir();
            found.push(path.clone());
            if is_dir {
                walk(lister, &path, found);
            }
        }
    }

    #[test]
    fn a_walk_finds_the_same_with_and_without_other_threads() {
        let mut lines = Vec::new();
        for (i, j) in (0..30).flat_map(|i| (0..i % 7).map(move |j| (i, j))) {
            lines.push(format!("dir a{i}/b{j} 0755 0 0"));
            lines.push(format!("file a{i}/b{j}/f{i} 0644 0 0 x"));
            lines.push(format!("file c{j}/f{i} 0644 0 0 x"));
        }
        let tree = MemoryTree::parse(&lines.join("\n"));
        let found = [true, false].map(|ahead| {
            let mut found = Vec::new();
            listing(&tree, ahead, |lister| {
                walk(lister, Path::new(""), &mut found);
            });
            found
        });
        assert!(found[0].len() > 200);
        assert_eq!(found[0], found[1]);
    }

    #[test]
    fn a_walk_may_leave_out_directories() {
        let line = |i| format!("file a{}/b{i}/f 0644 0 0 x", i % 20);
        let lines: Vec<String> = (0..4000).map(line).collect();
        let tree = MemoryTree::parse(&lines.join("\n"));
        listing(&tree, true, |lister| {
            lister.list(Path::new("")).unwrap();
            let mut found = Vec::new();
            walk(lister, Path::new("a7"), &mut found);
            assert_eq!(found.len(), 400);
        });
    }
}
