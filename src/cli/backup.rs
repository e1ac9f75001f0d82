//! How is the embedded database copied and restored?
use std::path::Path;

use crate::store::{self, DatabaseSettings};

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
