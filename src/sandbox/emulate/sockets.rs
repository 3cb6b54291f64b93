//! Calls with a path that only the thread itself can make: on sockets, whose address can be a path, and on watches of files. The thread is
//! given the directory, and makes its call with a path by way of that.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
};

use rustix::{
    fs::{self, FileType},
    io::Errno,
};

use super::{
    super::{
        keeper::{Verdict, view::Last},
        supervisor::{peers, sys::Answer, tracee::Tracee},
    },
    calls::Call,
    opens::{give, in_session},
    owners::absolute,
    paths::{EXECUTE, Found, Name, WRITE},
    serve::Emulator,
    sys::number,
    trace::Session,
};

/// `AF_UNIX`, and how long an address of it is, the family included.
const UNIX: u16 = 1;
const ADDRESS: usize = 110;
/// `struct msghdr`: address of the name, its length, vectors, control.
const HEADER: usize = 56;

/// What addresses begin with by which threads reach a name in a directory that they were given.
const BY_DESCRIPTOR: &str = "/proc/self/fd/";

/// The paths that sockets were given and connected to, by the sockets' inodes: the kernel knows other ones.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    own: HashMap<u64, OsString>,
    peers: HashMap<u64, OsString>,
}

impl Addresses {
    /// More sockets than a step has at a time; inodes of those that are closed are not told of.
    const MOST: usize = 10_000;

    fn learn(&mut self, call: Call, socket: u64, path: &OsStr) {
        let known = if call == Call::Bind {
            &mut self.own
        } else {
            &mut self.peers
        };
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(socket, path.to_owned());
    }

    fn of(&self, call: Call, socket: u64) -> Option<&OsStr> {
        let known = if call == Call::Getsockname {
            &self.own
        } else {
            &self.peers
        };
        known.get(&socket).map(OsString::as_os_str)
    }
}

/// The inode of the socket that a thread has open as the descriptor in its first argument.
fn inode(caller: &Tracee) -> Option<u64> {
    let stat = fs::stat(format!("{}/fd/{}", caller.thread(), caller.signed(0))).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Socket).then_some(stat.st_ino)
}

/// The path in an address; `None` when it has none.
fn path_of(address: &[u8]) -> Option<OsString> {
    let family = u16::from_ne_bytes([*address.first()?, *address.get(1)?]);
    let path = address.get(2..)?;
    if family != UNIX || path.first().is_none_or(|b| *b == 0) {
        return None;
    }
    let end = path.iter().position(|b| *b == 0).unwrap_or(path.len());
    Some(OsString::from_vec(path[..end].to_vec()))
}

/// The path by which a thread reaches a name in a directory that it has as `number`.
fn by_descriptor(number: i32, name: &Name) -> Vec<u8> {
    let mut path = format!("{BY_DESCRIPTOR}{number}/").into_bytes();
    path.extend(name.last.as_bytes());
    path
}

/// An address with a path.
fn address(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut bytes = UNIX.to_ne_bytes().to_vec();
    bytes.extend(path);
    bytes.push(0);
    if bytes.len() > ADDRESS {
        return Err(Errno::NAMETOOLONG);
    }
    Ok(bytes)
}

impl Emulator {
    pub(super) fn socket(&mut self, call: Call, caller: &Tracee, id: u64) -> Verdict {
        let native = Ok(Some(Answer::Native));
        let read = |at: u64, length: u64| -> Result<Vec<u8>, Errno> {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if at == 0 || length < 2 {
                return Ok(Vec::new());
            }
            caller.read_up_to(at, length.min(ADDRESS))
        };
        let bytes = match call {
            Call::Bind | Call::Connect => read(caller.word(1), caller.word(2) & 0xffff_ffff)?,
            Call::Sendto => read(caller.word(4), caller.word(5) & 0xffff_ffff)?,
            Call::Sendmsg => {
                let header = caller.read(caller.word(1), HEADER)?;
                read(word(&header, 0), word(&header, 8) & 0xffff_ffff)?
            }
            _ => return Self::many(caller),
        };
        let Some(path) = path_of(&bytes) else {
            return native;
        };
        if let (Call::Bind | Call::Connect, Some(socket)) = (call, inode(caller)) {
            self.addresses.learn(call, socket, &path);
        }
        let last = if call == Call::Bind {
            Last::Keep
        } else {
            Last::Follow
        };
        let Found::File { path, .. } = self.find(caller, (libc::AT_FDCWD, &path), last)? else {
            return Err(Errno::CONNREFUSED);
        };
        let name = self.name_in_root(path, false)?;
        let who = self.who(caller);
        if call == Call::Bind {
            return self.bind(caller, &name, id);
        }
        let thing = self.open_thing(&name.path)?;
        self.may(&who, &thing, WRITE)
            .map_err(|_closed| Errno::ACCESS)?;
        let listener = self.keeper.listener.as_fd();
        let number = give(listener, id, &name.dir)?;
        let address = address(&by_descriptor(number, &name))?;
        let request = Request::new(call, caller, address)?;
        let owned = self.keeper.listener.try_clone();
        let owned = owned.map_err(|_full| Errno::MFILE)?;
        let (thread, pass) = (caller.clone(), self.pass);
        // Whoever it talks to may have to be answered first.
        std::thread::spawn(move || request.make(owned.as_fd(), (&thread, id), pass, number));
        Ok(None)
    }

    fn bind(&mut self, caller: &Tracee, name: &Name, id: u64) -> Verdict {
        let who = self.who(caller);
        if self.open_thing(&name.path).is_ok() {
            return Err(Errno::ADDRINUSE);
        }
        self.may_change(&who, name)?;
        let known = self.of_new(&who, name, 0o777 & !caller.umask(), false)?;
        let listener = self.keeper.listener.as_fd();
        let number = give(listener, id, &name.dir)?;
        let address = address(&by_descriptor(number, name))?;
        let socket = caller.word(0);
        let session = Session::begin(listener, (caller, id), self.pass);
        let answered = in_session(session, |session| {
            let length = address.len() as u64 - 1;
            let result = session.with_memory(&address, |session, at| {
                session.call(number::BIND, [socket, at, length, 0, 0])
            })?;
            close(session, number)?;
            Ok(result)
        });
        if let Ok(thing) = self.open_thing(&name.path) {
            let path = absolute(&name.path);
            self.looks.by_path.renew(&path)?;
            self.looks
                .set(thing.fd.as_fd(), &thing.stat, &name.path, known)?;
        }
        answered
    }

    /// `getsockname` and `getpeername`: the thread asks the kernel, and is told the path that it knows.
    pub(super) fn told_address(&self, call: Call, caller: &Tracee, id: u64) -> Verdict {
        let known = inode(caller).and_then(|socket| self.addresses.of(call, socket));
        let Some(path) = known else {
            return Ok(Some(Answer::Native));
        };
        let [socket, place, length] = [0, 1, 2].map(|index| caller.word(index));
        let number = |bytes: &[u8]| u32::from_ne_bytes(std::array::from_fn(|i| bytes[i]));
        let room = number(&caller.read(length, 4)?);
        let asks = match call {
            Call::Getsockname => number::GETSOCKNAME,
            _ => number::GETPEERNAME,
        };
        let session = Session::begin(self.keeper.listener.as_fd(), (caller, id), self.pass);
        in_session(session, |session| {
            let result = session.call(asks, [socket, place, length, 0, 0])?;
            let told = number(&caller.read(length, 4)?).min(room);
            let told = usize::try_from(told).unwrap_or(0).min(ADDRESS);
            let told = path_of(&caller.read(place, told)?);
            // It may have been cut off.
            let is_ours = |told: &OsStr| {
                let (told, ours) = (told.as_bytes(), BY_DESCRIPTOR.as_bytes());
                told.starts_with(ours) || ours.starts_with(told)
            };
            if result == 0 && told.is_some_and(|told| is_ours(&told)) {
                let mut address = UNIX.to_ne_bytes().to_vec();
                address.extend(path.as_bytes());
                address.push(0);
                let whole = u32::try_from(address.len()).unwrap_or(0);
                address.truncate(usize::try_from(room).unwrap_or(0));
                caller.write(place, &address)?;
                caller.write(length, &whole.to_ne_bytes())?;
            }
            Ok(result)
        })
    }

    /// `getsockopt` of `SO_PEERCRED`: the kernel knows which process is at the other end, and we know who that is.
    pub(super) fn peer(&self, caller: &Tracee, id: u64) -> Verdict {
        if caller.signed(1) != libc::SOL_SOCKET {
            return Ok(Some(Answer::Native));
        }
        let words = [0, 1, 2, 3, 4].map(|index| caller.word(index));
        let [.., place, length] = words;
        let session = Session::begin(self.keeper.listener.as_fd(), (caller, id), self.pass);
        in_session(session, |session| {
            let result = session.call(number::GETSOCKOPT, words)?;
            if result == 0 && caller.read(length, 4)? == peers::LENGTH {
                let number = caller.read(place, 4)?;
                let number = i32::from_ne_bytes(std::array::from_fn(|i| number[i]));
                if let Ok(outer) = u32::try_from(number)
                    && self.keeper.view.members.contains(number)
                {
                    caller.write(place, &peers::ucred(&self.identities, outer, number))?;
                }
            }
            Ok(result)
        })
    }

    /// Several messages at once: none goes to a path.
    fn many(caller: &Tracee) -> Verdict {
        /// `UIO_MAXIOV`, and the size of `struct mmsghdr`.
        const MOST: u32 = 1024;
        const SIZE: usize = 64;
        let count = usize::try_from(caller.number(2).min(MOST)).unwrap_or(0);
        let all = caller.read(caller.word(1), count * SIZE)?;
        for header in all.chunks_exact(SIZE) {
            let (at, length) = (word(header, 0), word(header, 8) & 0xffff_ffff);
            if at == 0 || length < 2 {
                continue;
            }
            let length = usize::try_from(length).unwrap_or(ADDRESS).min(ADDRESS);
            if path_of(&caller.read_up_to(at, length)?).is_some() {
                return Err(Errno::OPNOTSUPP);
            }
        }
        Ok(Some(Answer::Native))
    }

    /// `inotify_add_watch`.
    pub(super) fn watch(&self, caller: &Tracee, id: u64) -> Verdict {
        /// `IN_DONT_FOLLOW`, `IN_ONLYDIR`
        const KEEP: u32 = 0x0200_0000;
        const ONLY_DIR: u32 = 0x0100_0000;
        let path = caller.path(1)?;
        let flags = caller.number(2);
        let last = if flags & KEEP == 0 {
            Last::Follow
        } else {
            Last::Keep
        };
        let Found::File { path, .. } = self.find(caller, (libc::AT_FDCWD, &path), last)? else {
            // Nothing that happens there would be told.
            return Err(Errno::NOENT);
        };
        let thing = self.open_thing(&path)?;
        if flags & ONLY_DIR != 0 && !thing.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let wanted = super::paths::READ | if thing.is_dir() { EXECUTE } else { 0 };
        let who = self.who(caller);
        if !who.is_root() {
            self.may(&who, &thing, wanted)?;
        }
        let name = self.name_in_root(path, false)?;
        let listener = self.keeper.listener.as_fd();
        let number = give(listener, id, &name.dir)?;
        let mut bytes = by_descriptor(number, &name);
        bytes.push(0);
        let (watches, flags) = (caller.word(0), u64::from(flags));
        let session = Session::begin(listener, (caller, id), self.pass);
        in_session(session, |session| {
            let result = session.with_memory(&bytes, |session, at| {
                session.call(number::INOTIFY_ADD_WATCH, [watches, at, flags, 0, 0])
            })?;
            close(session, number)?;
            Ok(result)
        })
    }
}

fn close(session: &Session, number: i32) -> Result<i64, Errno> {
    let number = u64::from(number.cast_unsigned());
    session.call(number::CLOSE, [number, 0, 0, 0, 0])
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// A call on a socket with an address that is a path.
struct Request {
    call: Call,
    arguments: [u64; 4],
    address: Vec<u8>,
    /// The message, where it is described in memory.
    header: Vec<u8>,
}

impl Request {
    fn new(call: Call, caller: &Tracee, address: Vec<u8>) -> Result<Self, Errno> {
        let header = if call == Call::Sendmsg {
            caller.read(caller.word(1), HEADER)?
        } else {
            Vec::new()
        };
        Ok(Self {
            call,
            arguments: [0, 1, 2, 3].map(|index| caller.word(index)),
            address,
            header,
        })
    }

    /// Has the thread make it. The memory that it is given holds the address and, from the next multiple of 8 on, a message and a
    /// vector.
    fn make(self, listener: BorrowedFd<'_>, (caller, id): (&Tracee, u64), pass: u64, dir: i32) {
        let length = self.address.len() as u64 - 1;
        let [socket, buffer, size, flags] = self.arguments;
        let mut bytes = self.address;
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let start = bytes.len() as u64;
        bytes.resize(bytes.len() + HEADER + 16, 0);
        let session = Session::begin(listener, (caller, id), pass);
        let made = in_session(session, |session| {
            let result = session.with_memory(&bytes, |session, at| {
                let call = self.call;
                if call == Call::Connect {
                    return session.call(number::CONNECT, [socket, at, length, 0, 0]);
                }
                let message = at + start;
                let mut header = self.header.clone();
                let flags = if call == Call::Sendmsg {
                    size
                } else {
                    // A message of one vector.
                    header.resize(HEADER, 0);
                    header[16..24].copy_from_slice(&(message + HEADER as u64).to_ne_bytes());
                    header[24..32].copy_from_slice(&1_u64.to_ne_bytes());
                    header.extend(buffer.to_ne_bytes());
                    header.extend(size.to_ne_bytes());
                    flags
                };
                header[..8].copy_from_slice(&at.to_ne_bytes());
                header[8..16].copy_from_slice(&length.to_ne_bytes());
                session.write(message, &header)?;
                session.call(number::SENDMSG, [socket, message, flags, 0, 0])
            })?;
            close(session, dir)?;
            Ok(result)
        });
        if let Err(error) = made {
            let answer = Answer::Error(error.raw_os_error());
            // Whoever asked may be gone by now.
            let _gone = super::super::supervisor::sys::send(listener, id, answer);
        }
    }
}
