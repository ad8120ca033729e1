//! Checks of a connection by TLS before it is made: its files, the mode of the key, and the program
//! that speaks TLS.

use crate::plan::connection::{Tls, Tool};
use crate::plan::{Command, Connection};
use crate::reason::reason;
use crate::sys::process;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Characters that mean something else than themselves in an address of socat.
const SPECIAL_TO_SOCAT: [char; 11] = [',', ':', '!', '"', '\'', '\\', '(', ')', '{', '[', ']'];

/// The connection with a program that this host has. The error says what is missing.
pub fn checked(connection: &Connection) -> Result<Connection, String> {
    let Connection::Tls(tls) = connection else {
        return Ok(connection.clone());
    };
    let files = [
        ("the CA certificates", &tls.ca),
        ("the certificate", &tls.cert),
        ("the key", &tls.key),
    ];
    for (what, file) in files {
        if let Some(file) = file {
            check_readable(what, file)?;
        }
    }
    if let Some(key) = tls.key_file() {
        check_mode(key)?;
    }
    let tool = tool(tls)?;
    Ok(Connection::Tls(Tls {
        tool,
        ..tls.clone()
    }))
}

fn check_readable(what: &str, file: &Path) -> Result<(), String> {
    File::open(file)
        .and_then(|mut open| open.read(&mut [0]))
        .map(drop)
        .map_err(|error| {
            let (file, why) = (file.display(), reason(&error));
            format!("cannot connect by TLS: cannot read {what} {file}: {why}")
        })
}

/// The bits of a mode that are not the owner's.
const OTHERS: u32 = 6;

/// As ssh does: the owner may let no one else read a key. Another owner, e.g. root, has decided that
/// this user may read it.
fn check_mode(key: &Path) -> Result<(), String> {
    let Ok(metadata) = fs::metadata(key) else {
        return Ok(()); // reading it has failed already
    };
    if metadata.uid() != process::own_user() || metadata.mode().trailing_zeros() >= OTHERS {
        return Ok(());
    }
    let (key, mode) = (key.display(), metadata.mode() & 0o777);
    Err(format!(
        "cannot connect by TLS: the key {key} has mode {mode:04o}, so that other users may read or change it: use chmod 600 {key}"
    ))
}

fn tool(tls: &Tls) -> Result<Tool, String> {
    if has("openssl") {
        return Ok(Tool::Openssl);
    }
    if !has("socat") {
        return Err(
            "cannot connect by TLS: openssl is not found on PATH (nor is socat): install openssl"
                .into(),
        );
    }
    let files = [&tls.ca, &tls.cert, &tls.key].into_iter().flatten();
    let texts = files.map(|file| file.to_string_lossy().into_owned());
    match texts
        .chain(tls.name.clone())
        .find(|text| text.contains(SPECIAL_TO_SOCAT))
    {
        None => Ok(Tool::Socat),
        Some(text) => Err(format!(
            "cannot connect by TLS: openssl is not found on PATH, and socat cannot use {text:?}: install openssl"
        )),
    }
}

fn has(program: &str) -> bool {
    let command = Command {
        words: vec![program.into()],
        shown: program.into(),
    };
    super::find_command(&command, Path::new("")).is_ok()
}
