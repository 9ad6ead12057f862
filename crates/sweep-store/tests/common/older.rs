//! Files as earlier versions of the program left them.

use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};

/// Makes a file with the schema of `version` at `to`, with the rows of the file `from` in what columns both have.
pub(crate) async fn copy(from: &Path, to: &Path, version: i64) {
    let mut old = empty(to, version).await;
    execute(&mut old, "PRAGMA foreign_keys = OFF".to_owned()).await;
    execute(&mut old, format!("ATTACH '{}' AS new", from.display())).await;
    let tables =
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut old).await.unwrap();
    for table in tables {
        let columns: String = sqlx::query_scalar(
            "SELECT group_concat(name, ', ') FROM pragma_table_xinfo(?1, 'main')
             WHERE hidden = 0 AND name IN (SELECT name FROM pragma_table_xinfo(?1, 'new'))",
        )
        .bind(table.clone())
        .fetch_one(&mut old)
        .await
        .unwrap();
        // Some migrations bring rows themselves.
        let insert =
            format!("INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}");
        execute(&mut old, insert).await;
    }
    old.close().await.unwrap();
}

/// Makes a file without rows and with the schema of `version`.
async fn empty(path: &Path, version: i64) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(true);
    let mut connection = options.connect().await.unwrap();
    let known = sqlx::migrate!("../../migrations");
    let applied = known.iter().filter(|migration| migration.version <= version).cloned().collect();
    Migrator::with_migrations(applied).run_direct(None, &mut connection, false).await.unwrap();
    connection
}

async fn execute(connection: &mut SqliteConnection, sql: String) {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}
