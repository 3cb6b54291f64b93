//! A process that ends when the work is called off, with all that it started.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Output, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

/// The longest time between two questions whether to stop.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Runs a process in a group of its own and gives what it wrote. Once `canceled` says so the whole group is killed, and
/// the result is [`io::ErrorKind::Interrupted`].
///
/// A signal from the terminal does not reach the group, so nobody else has to end it.
pub(super) fn output(mut command: Command, canceled: &dyn Fn() -> bool) -> io::Result<Output> {
    if canceled() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let mut child = command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if canceled() {
            kill(&mut child)?;
            return Err(io::ErrorKind::Interrupted.into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(MAX_PAUSE);
    };
    Ok(Output {
        status,
        stdout: joined(stdout)?,
        stderr: joined(stderr)?,
    })
}

fn kill(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Its leader is not reaped yet, so the number is still its own.
        kill_process_group(group, Signal::KILL).ok();
    }
    child.wait().map(|_| ())
}

/// Reads on a thread, so that neither pipe fills up while the other one is waited for.
fn collect<R: Read + Send + 'static>(stream: Option<R>) -> Option<JoinHandle<io::Result<Vec<u8>>>> {
    let mut stream = stream?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    }))
}

fn joined(reader: Option<JoinHandle<io::Result<Vec<u8>>>>) -> io::Result<Vec<u8>> {
    reader.map_or_else(
        || Ok(Vec::new()),
        |reader| {
            reader
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn what_a_process_writes_is_given() {
        let output = output(shell("echo a; echo b >&2; exit 3"), &|| false).expect("it runs");
        assert_eq!(output.stdout, b"a\n");
        assert_eq!(output.stderr, b"b\n");
        assert_eq!(output.status.code(), Some(3));
        let missing = super::output(Command::new("/no/such/program"), &|| false);
        let error = missing.expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_process_that_is_called_off_ends_with_its_children() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pids = dir.path().join("pids");
        // The shell and a child that would keep the pipe open.
        let script = format!(
            "sleep 600 & echo $$ $! >{0}.new; mv {0}.new {0}; wait",
            pids.display()
        );
        let start = Instant::now();
        let error = output(shell(&script), &|| {
            pids.is_file() || start.elapsed().as_secs() > 60
        })
        .expect_err("called off");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        let text = std::fs::read_to_string(&pids).expect("it was written");
        for pid in text.split_whitespace() {
            let state = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
                rest.trim().chars().next()
            };
            // Whoever inherits the child may be slow to reap it; it must be dead all the same.
            let mut n_looks = 0;
            while !matches!(state(), None | Some('Z' | 'X')) && n_looks < 1000 {
                std::thread::sleep(Duration::from_millis(10));
                n_looks += 1;
            }
            assert!(matches!(state(), None | Some('Z' | 'X')), "{pid} is alive");
        }
    }
}
