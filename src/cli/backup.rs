//! The embedded database, copied and put back.
use std::path::Path;

use crate::store;

pub(super) fn back_up(file: Option<&Path>, to: &Path) -> Result<(), String> {
    let config = super::load(file)?;
    actix_rt::System::new().block_on(store::back_up(&config.database, to)).map_err(|error| error.to_string())?;
    println!("The database is backed up to {}.", to.display());
    Ok(())
}

pub(super) fn restore(file: Option<&Path>, from: &Path) -> Result<(), String> {
    let config = super::load(file)?;
    actix_rt::System::new().block_on(store::restore(&config.database, from)).map_err(|error| error.to_string())?;
    println!("The database is as it was in {}. Start the gateway again.", from.display());
    Ok(())
}
