//! How is a table taken up while it is still being read?
use std::pin::pin;

use futures_util::future::join;
use futures_util::{Stream, TryStreamExt};
use sea_orm::DbErr;

use crate::store::directory::Directory;

/// Takes the pieces of a table up in their order, each while the next one is made.
pub(super) async fn take_up<Piece: Send + 'static>(
    mut directory: Directory,
    pieces: impl Stream<Item = Result<Piece, DbErr>>,
    put: impl Fn(&Piece, &mut Directory) -> Result<(), DbErr> + Clone + Send + 'static,
) -> Result<Directory, DbErr> {
    let mut pieces = pin!(pieces);
    let mut next = pieces.try_next().await?;
    while let Some(piece) = next {
        let put = put.clone();
        let work = tokio::task::spawn_blocking(move || {
            put(&piece, &mut directory)?;
            Ok::<_, DbErr>(directory)
        });
        let (taken_up, following) = join(work, pieces.try_next()).await;
        directory = taken_up.map_err(|error| DbErr::Custom(error.to_string()))??;
        next = following?;
    }
    Ok(directory)
}
