//! The clock of Kinto's PostgreSQL, of which Kinto has the timestamps of versions.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

/// Has Kinto's storage take its timestamps from a clock that can be set.
pub async fn follow(storage: &str) {
    let mut connection = PgConnection::connect(storage).await.unwrap();
    let follow = "
        CREATE TABLE clock (ahead BIGINT);
        INSERT INTO clock VALUES (0);
        CREATE FUNCTION kintos_clock() RETURNS TIMESTAMPTZ AS $$
            SELECT clock_timestamp() + make_interval(secs => ahead) FROM clock
        $$ LANGUAGE sql VOLATILE;
        DO $$ BEGIN
            EXECUTE replace(pg_get_functiondef('bump_timestamp()'::regprocedure), 'clock_timestamp()', 'kintos_clock()');
        END $$;";
    connection.execute(follow).await.unwrap();
}

/// By how many seconds it is ahead from now on.
pub async fn set_ahead(storage: &str, seconds: i64) {
    let mut connection = PgConnection::connect(storage).await.unwrap();
    sqlx::query("UPDATE clock SET ahead = $1").bind(seconds).execute(&mut connection).await.unwrap();
}
