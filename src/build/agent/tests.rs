//! OpenSSH's own programs as clients: they list the keys, sign by them and verify.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::{
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use super::*;

/// Runs a program of OpenSSH; nothing where it is not installed.
fn ssh(program: &str, args: &[&str], dir: &Path, agent: Option<&Agent>) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env("LC_ALL", "C");
    if let Some(agent) = agent {
        command.env("SSH_AUTH_SOCK", agent.socket());
    }
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("skipped: there is no {program}");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Makes a key `NAME` and `NAME.pub`.
fn generate(name: &str, args: &[&str], dir: &Path) -> Option<PathBuf> {
    let rest = ["-q", "-N", "", "-C", name, "-f", name];
    let made = ssh("ssh-keygen", &[args, &rest].concat(), dir, None)?;
    assert!(made.status.success(), "{made:?}");
    Some(dir.join(name))
}

const KINDS: [(&str, &[&str]); 7] = [
    ("ed25519", &["-t", "ed25519"]),
    ("p256", &["-t", "ecdsa", "-b", "256"]),
    ("p384", &["-t", "ecdsa", "-b", "384"]),
    ("p256-pem", &["-t", "ecdsa", "-b", "256", "-m", "PEM"]),
    ("p384-pkcs8", &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"]),
    ("rsa", &["-t", "rsa", "-b", "2048"]),
    ("rsa-pem", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
];

#[test]
fn openssh_signs_with_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let keys: Option<Vec<_>> = KINDS
        .iter()
        .map(|(name, args)| generate(name, args, dir))
        .collect();
    let Some(keys) = keys else { return };
    let agent = Agent::with_keys(&keys, dir).unwrap();
    let mode = fs::metadata(agent.socket().parent().unwrap()).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o700);

    let Some(listed) = ssh("ssh-add", &["-L"], dir, Some(&agent)) else {
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let public = |name: &str| fs::read_to_string(dir.join(format!("{name}.pub"))).unwrap();
    let first_two = |line: &str| {
        line.split(' ')
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let expected: Vec<_> = KINDS
        .iter()
        .map(|(name, _)| first_two(&public(name)))
        .collect();
    assert_eq!(listed.lines().map(first_two).collect::<Vec<_>>(), expected);

    for (name, _) in KINDS {
        // Where there is no private key beside the public one, the agent is asked.
        fs::remove_file(dir.join(name)).unwrap();
        fs::write(dir.join("text"), "what is signed").unwrap();
        fs::write(dir.join("who"), format!("me {}", public(name))).unwrap();
        let key = format!("{name}.pub");
        let sign = ["-Y", "sign", "-n", "file", "-f", &key, "text"];
        let signed = ssh("ssh-keygen", &sign, dir, Some(&agent)).unwrap();
        assert!(signed.status.success(), "{name}: {signed:?}");
        let verify = [
            "-Y", "verify", "-n", "file", "-I", "me", "-f", "who", "-s", "text.sig",
        ];
        let mut command = Command::new("ssh-keygen");
        command
            .args(verify)
            .current_dir(dir)
            .stdin(fs::File::open(dir.join("text")).unwrap());
        let verified = command.output().unwrap();
        assert!(verified.status.success(), "{name}: {verified:?}");
        fs::remove_file(dir.join("text.sig")).unwrap();
    }
    let removed = ssh("ssh-add", &["-D"], dir, Some(&agent)).unwrap();
    assert!(!removed.status.success(), "{removed:?}");
}

#[test]
fn a_key_with_a_passphrase_or_of_another_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let error = |name: &str| match Agent::with_keys(&[dir.join(name)], dir).unwrap_err() {
        AgentError::Key { source, .. } => source,
        other => panic!("{other}"),
    };
    if generate("p521", &["-t", "ecdsa", "-b", "521"], dir).is_none() {
        return;
    }
    let kind = "ecdsa-sha2-nistp521".to_owned();
    assert_eq!(error("p521"), KeyError::Kind(kind));
    assert_eq!(error("p521.pub"), KeyError::NoKey);
    for form in ["RFC4716", "PEM", "PKCS8"] {
        let name = format!("locked-{form}");
        let args = ["-q", "-t", "ecdsa", "-m", form, "-N", "secret", "-f", &name];
        let made = ssh("ssh-keygen", &args, dir, None).unwrap();
        assert!(made.status.success(), "{made:?}");
        assert_eq!(error(&name), KeyError::Encrypted, "{form}");
    }
    let missing = Agent::with_keys(&[dir.join("nothing")], dir).unwrap_err();
    assert!(
        matches!(missing, AgentError::Unreadable { .. }),
        "{missing}"
    );
}

#[test]
fn an_agent_ends_with_the_last_that_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::with_keys(&[], dir.path()).unwrap();
    let socket = agent.socket().to_owned();
    let other = agent.clone();
    drop(agent);
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES]).unwrap();
    let mut answer = [0; 9];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0, 0, 0, 5, IDENTITIES, 0, 0, 0, 0]);
    client.write_all(&[0, 0, 0, 1, 17]).unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0, 0, 0, 1, FAILURE]);
    drop(other);
    assert!(!socket.try_exists().unwrap());
}
