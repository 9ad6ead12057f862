//! Finding a run by the first digits of its id.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use sweep_core::spec::RunId;

use crate::error::{Candidate, Error, Result};
use crate::reader::Reader;
use crate::row;

/// How many candidates an error lists.
const LISTED: u32 = 5;

impl Reader {
    /// Returns the only run whose id begins with `prefix` (upper or lower case). An empty prefix fits every run. Where
    /// no run or several runs fit, the error lists candidates.
    pub async fn resolve_run(&self, prefix: &str) -> Result<RunId> {
        let digits = prefix.trim().to_ascii_lowercase();
        let found = self.candidates("id >= ?1 AND id < ?1 || 'g'", &digits).await?;
        match found.as_slice() {
            [(run, _)] => Ok(*run),
            [] => Err(self.unknown(prefix, &digits).await?),
            _ => Err(self.ambiguous(prefix, &digits, found).await?),
        }
    }

    async fn unknown(&self, prefix: &str, digits: &str) -> Result<Error> {
        let candidates = self.candidates("id >= ?1", digits).await?;
        Ok(Error::UnknownRun { prefix: prefix.to_owned(), candidates: listed(candidates) })
    }

    async fn ambiguous(&self, prefix: &str, digits: &str, found: Vec<(RunId, String)>) -> Result<Error> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM runs WHERE id >= ?1 AND id < ?1 || 'g'")
            .bind(digits.to_owned())
            .fetch_one(self.pool())
            .await
            .map_err(self.failed("find a run"))?;
        Ok(Error::AmbiguousRun {
            prefix: prefix.to_owned(),
            count: count.unsigned_abs(),
            candidates: listed(found),
        })
    }

    async fn candidates(&self, condition: &'static str, digits: &str) -> Result<Vec<(RunId, String)>> {
        let statement = format!(
            "SELECT id, backbone || ' ' || dataset || ' ' || target_epsilon || ' ' || epsilon_schedule || ' seed '
                || seed AS description
             FROM runs WHERE {condition} ORDER BY id LIMIT {LISTED}"
        );
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(digits.to_owned())
            .try_map(|row: SqliteRow| Ok((row::run_id(&row, "id")?, row.try_get("description")?)))
            .fetch_all(self.pool())
            .await
            .map_err(self.failed("find a run"))
    }
}

fn listed(candidates: Vec<(RunId, String)>) -> Vec<Candidate> {
    candidates.into_iter().map(|(id, description)| Candidate { id: id.to_string(), description }).collect()
}
