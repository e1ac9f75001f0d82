//! How is the database copied and restored, and is the audit log in it intact?
use std::path::Path;

use crate::store::{self, DatabaseSettings, Verified};

pub(super) fn back_up(settings: &DatabaseSettings, to: &Path) -> Result<(), String> {
    actix_rt::System::new().block_on(store::back_up(settings, to)).map_err(|error| error.to_string())?;
    println!("The database was backed up to {}.", to.display());
    Ok(())
}

pub(super) fn restore(settings: &DatabaseSettings, from: &Path) -> Result<(), String> {
    actix_rt::System::new().block_on(store::restore(settings, from)).map_err(|error| error.to_string())?;
    println!("The database was restored from {}. Start the gateway again.", from.display());
    Ok(())
}

pub(super) fn verify_audit(settings: &DatabaseSettings, expect: Option<&str>) -> Result<(), String> {
    let expected = expect.map(line_of).transpose()?;
    let verifying = store::verify_audit(settings, expected);
    match actix_rt::System::new().block_on(verifying).map_err(|error| error.to_string())? {
        Verified::Whole { last_seq: 0, .. } => println!("The audit log is empty."),
        Verified::Whole { entries, first_seq, last_seq, last_digest } => {
            println!("The audit log is intact: {entries} entries, {first_seq} to {last_seq}.");
            println!("Keep the next line elsewhere, and pass it to --expect next time:");
            println!("{last_seq}:{last_digest}");
        }
        Verified::Broken { seq, why } => return Err(format!("The audit log is not intact: entry {seq}: {why}.")),
    }
    Ok(())
}

/// An entry's number and digest.
fn line_of(text: &str) -> Result<(i64, &str), String> {
    let parts = text.trim().split_once(':').and_then(|(seq, digest)| Some((seq.parse().ok()?, digest)));
    let is_digest = |digest: &str| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts
        .filter(|(seq, digest)| *seq > 0 && is_digest(digest))
        .ok_or_else(|| "--expect takes NUMBER:DIGEST, as `audit verify` prints it".to_owned())
}
