//! The step cache: when may a step's earlier layer stand in for executing it again?
//!
//! A [`Key`] covers everything that can change the layer and nothing else. Erring wide costs a rebuild; erring narrow
//! ships a wrong image.
//!
//! | input                              | RUN | COPY, ADD | WORKDIR | why                                             |
//! |------------------------------------|-----|-----------|---------|-------------------------------------------------|
//! | chainID of what it builds on       |  ✓  |     ✓     |    ✓    | the same words on other files mean another thing; not with `COPY --link`, which looks at nothing |
//! | the platform                       |  ✓  |           |         | a process can ask for it                        |
//! | argv, heredoc scripts              |  ✓  |           |         | what is executed, the shell included            |
//! | environment, in order              |  ✓  |           |         | the process sees it: `ENV`, and `ARG` in effect |
//! | user, working directory            |  ✓  |           |         | the process sees them                           |
//! | network mode, `--security`, devices|  ✓  |           |         | the process can tell                            |
//! | hostname, names of added hosts, shm size, ulimits, cgroup parent | ✓ | |     | the process can tell                            |
//! | targets and options of mounts      |  ✓  |           |         | the process sees them                           |
//! | content of bind mounts and of seeds|  ✓  |           |         | read by the process; where it comes from does not matter |
//! | ids of secrets and agents          |  ✓  |           |         | another secret was meant                        |
//! | destination, owner, mode, flags    |     |     ✓     |         | they make the entries of the layer              |
//! | content digest of the sources      |     |     ✓     |         | names, types, bytes, modes, owners, link targets, xattrs |
//! | path, owner                        |     |           |    ✓    | they make the entries of the layer              |
//!
//! Never: file times, inode numbers, host paths, the order of names on disk (they are not content); values of secrets, addresses of added hosts,
//! proxies, resource limits, ids and sharing of cache mounts (they must not matter, and change all the time);
//! `LABEL`, `CMD` and the like, declared arguments that are not in effect, comments, formatting (they make no
//! layer); `SOURCE_DATE_EPOCH` unless the environment has it (it is applied when the layer is written).
//!
//! Two different inputs never share a key: every field is written with its name, a mark for its type, and its length
//! (see [`KeyBuilder`]). The version of the encoding is in the key; a change of what a step does with the same
//! inputs needs a new one.
//!
//! **Early cut-off.** A step that is executed again often makes what it made before, file times aside ([`content_digest`]). The
//! earlier layer is kept then, and with it all that follows stays cached; see `equal`.
//!
//! **Records.** A [`StepRecord`] is kept by key. Records are valid or absent (`store`); a record whose layer has gone is a
//! miss. Beside them is kept how the step at each [`Place`] looked last time ([`Sight`]), which is what tells why a step
//! missed ([`Key::reason`]); that is never asked whether there is a hit. What was found out about a
//! state is kept as facts (`facts`), so that keys are known without reading layers. Records, facts and layers travel between
//! machines through [`remote`] caches.

mod content;
mod equal;
mod facts;
mod files;
mod key;
mod place;
mod reason;
mod record;
pub mod remote;
mod steps;

pub use content::content_digest;
pub use equal::Fresh;
pub use facts::Question;
pub use files::{FileEntry, Files};
pub use key::{Input, Key, KeyBuilder};
pub use place::{AtPlace, BaseState, FileList, Lineage, Memory, Place, Sight};
pub use record::{CacheUse, Lookup, Miss, StepRecord};
pub use steps::{
    CopyInputs, MountContent, RunInputs, Ulimit, WorkdirInputs, copy_key, run_key, workdir_key,
};
