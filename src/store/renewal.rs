//! How does a running gateway take up a new password of Postgres?
use super::database::Store;
use super::error::StoreError;

impl Store {
    /// Whether the password of the database comes from a file.
    pub fn has_password_file(&self) -> bool {
        self.password.is_some()
    }

    /// Reads the file with the password again. If it holds another one, new connections use that from now on. Returns whether
    /// it does.
    ///
    /// # Errors
    /// The file cannot be read; the known password stays.
    pub async fn renew_password(&self) -> Result<bool, StoreError> {
        let Some(file) = self.password.clone() else { return Ok(false) };
        let path = file.path().to_path_buf();
        let read = tokio::task::spawn_blocking(move || file.read_again()).await;
        let failed =
            |error: tokio::task::JoinError| StoreError::PasswordFile { path, error: std::io::Error::other(error) };
        let Some(password) = read.map_err(failed)?? else { return Ok(false) };
        for db in [&self.db, &self.reads] {
            let pool = db.get_postgres_connection_pool();
            let options = pool.connect_options();
            pool.set_connect_options((*options).clone().password(&password));
        }
        Ok(true)
    }
}
