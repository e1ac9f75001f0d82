//! How does a statement about many rows have the same text for any number of them?
//!
//! A connection keeps the last hundred statements that it prepared, by their text, and Postgres keeps its own of each. With a
//! parameter for each value, every number of rows would be another text, with thousands of parameters: together they took
//! 140 MiB of the gateway. So all values are one parameter, a JSON text, which the database unpacks.
use sea_orm::sea_query::{ColumnType, Expr, ExprTrait, Func, InsertStatement, IntoIden, Query, SimpleExpr};
use sea_orm::{ColumnTrait, DatabaseBackend, DbErr, EntityTrait, IdenStatic, Iterable, ModelTrait, Value};
use uuid::Uuid;

use super::keys::hex;

/// What the list is called in the statement, and its only column, as both databases name it.
const LIST: &str = "list";
const VALUE: &str = "value";

/// Whether a column is one of these texts.
pub(super) fn is_any<'a>(
    column: impl ColumnTrait,
    backend: DatabaseBackend,
    texts: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>,
) -> SimpleExpr {
    is_in_list(column, backend, texts.into_iter().map(AsRef::as_ref).collect(), Expr::col(VALUE))
}

/// Whether a column is one of these ids.
pub(super) fn is_any_id(
    column: impl ColumnTrait,
    backend: DatabaseBackend,
    ids: impl IntoIterator<Item = Uuid>,
) -> SimpleExpr {
    let id = match backend {
        DatabaseBackend::Sqlite => Func::cust("unhex").arg(Expr::col(VALUE)).into(),
        _ => Expr::col(VALUE).cast_as("uuid"),
    };
    is_in_list(column, backend, ids.into_iter().map(|id| id.simple().to_string()).collect(), id)
}

fn is_in_list(
    column: impl ColumnTrait,
    backend: DatabaseBackend,
    values: serde_json::Value,
    item: SimpleExpr,
) -> SimpleExpr {
    let values = Expr::val(values.to_string());
    let unpacked = match backend {
        DatabaseBackend::Sqlite => Func::cust("json_each").arg(values),
        _ => Func::cust("json_array_elements_text").arg(values.cast_as("json")),
    };
    let list = Query::select().expr(item).from_function(unpacked, LIST).to_owned();
    match backend {
        DatabaseBackend::Sqlite => column.in_subquery(list),
        // An array serves as the condition of an index, where Postgres would join with a table that it knows nothing of.
        _ => column.into_expr().eq(Func::cust("ANY").arg(Func::cust("ARRAY").arg(Expr::from(list)))),
    }
}

/// Inserts these rows. What is done about those that exist can be added.
///
/// # Errors
/// A column has a type that no table of the gateway has so far.
pub(super) fn insertion<E: EntityTrait>(backend: DatabaseBackend, rows: &[E::Model]) -> Result<InsertStatement, DbErr> {
    let table = E::default();
    let rows = rows.iter().map(|row| object_of::<E>(backend, row)).collect::<Result<Vec<_>, _>>()?;
    let rows = Expr::val(serde_json::Value::from(rows).to_string());
    let unpacked = match backend {
        DatabaseBackend::Sqlite => Func::cust("json_each").arg(rows),
        _ => {
            let row_type = Expr::cust(format!("NULL::\"{}\"", table.table_name()));
            Func::cust("json_populate_recordset").arg(row_type).arg(rows.cast_as("json"))
        }
    };
    let mut select = Query::select();
    for column in E::Column::iter() {
        select.expr(match backend {
            DatabaseBackend::Sqlite => member(column),
            _ => Expr::col(column),
        });
    }
    // Without a WHERE, SQLite would take the ON of ON CONFLICT for that of a join.
    select.from_function(unpacked, LIST).and_where(Expr::cust("true"));
    let mut insert = Query::insert();
    insert.into_table(table).columns(E::Column::iter().map(IntoIden::into_iden));
    insert.select_from(select).map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok(insert)
}

/// A column's value in a row that SQLite has as JSON. Names of columns are ours, so none needs quoting.
fn member<C: ColumnTrait>(column: C) -> SimpleExpr {
    let member = Expr::cust(format!("value ->> '{}'", column.as_str()));
    match column.def().get_column_type() {
        ColumnType::Uuid | ColumnType::Binary(_) | ColumnType::VarBinary(_) | ColumnType::Blob => {
            Func::cust("unhex").arg(member).into()
        }
        _ => member,
    }
}

fn object_of<E: EntityTrait>(backend: DatabaseBackend, row: &E::Model) -> Result<serde_json::Value, DbErr> {
    let before_bytes = if backend == DatabaseBackend::Sqlite { "" } else { "\\x" };
    let members = E::Column::iter().map(|column| {
        let value = match row.get(column) {
            Value::Bool(value) => value.into(),
            Value::SmallInt(value) => value.into(),
            Value::Int(value) => value.into(),
            Value::BigInt(value) => value.into(),
            Value::String(value) => value.into(),
            Value::Uuid(value) => value.map(|id| id.simple().to_string()).into(),
            Value::Bytes(value) => value.map(|bytes| format!("{before_bytes}{}", hex(&bytes))).into(),
            // Without the value, which may be a secret.
            _ => return Err(DbErr::Type(format!("{} has a type that is not written as JSON", column.as_str()))),
        };
        Ok((column.as_str().to_owned(), value))
    });
    Ok(serde_json::Value::Object(members.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod properties;
