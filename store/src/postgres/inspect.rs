//! Looks at a database without changing it.

use super::failures::Target;
use super::guard::{Held, Holder};
use super::key;
use super::migrate;
use super::setup::{check_server, check_that_sessions_are_our_own, connect_options};
use crate::error::OpenError;
use crate::inspect::{DatabaseState, Schema};
use crate::migrations;
use crate::options::OpenOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, Row};
use tokio::time::timeout;

pub(crate) async fn inspect(url: &str, options: &OpenOptions) -> Result<DatabaseState, OpenError> {
    let connect = connect_options(url)?;
    let target = Target::of(&connect);
    match timeout(options.open_timeout, look(&connect, &target)).await {
        Ok(state) => state,
        Err(_) => Err(target.no_answer(options.open_timeout)),
    }
}

async fn look(connect: &PgConnectOptions, target: &Target) -> Result<DatabaseState, OpenError> {
    let failed = |error: sqlx::Error| target.failed(&error);
    let mut session = Held::without_lock(connect).await.map_err(failed)?;
    check_server(&mut session.connection, target).await?;
    check_that_sessions_are_our_own(&mut session, connect, target).await?;
    let connection = &mut session.connection;

    let sql = "SELECT current_setting('server_version'), to_regclass('_sqlx_migrations') IS NOT NULL,
        coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)";
    let row = connection.fetch_one(sql).await.map_err(failed)?;
    let facts = || Ok((row.try_get::<String, _>(0)?, row.try_get::<bool, _>(1)?, row.try_get::<bool, _>(2)?));
    let (version, has_schema, may_create) = facts().map_err(failed)?;
    let schema = match has_schema {
        false => Schema::missing(migrations::POSTGRES),
        true => match migrate::version(connection, migrations::POSTGRES).await {
            Ok(version) => Schema { version, ..Schema::missing(migrations::POSTGRES) },
            Err(error) => return Err(migrate::failed(&error, target, migrations::POSTGRES)),
        },
    };
    if !schema.is_current() && !may_create {
        return Err(OpenError::Lasting(target.lacks_rights("it may not create tables")));
    }
    let holder = Holder::find(connection).await.map_err(failed)?;
    let key_id = key::recorded(connection).await.map_err(failed)?;
    let description = format!("PostgreSQL {version} at {}", target.address);
    let _ = session.connection.close().await;
    Ok(DatabaseState { description, schema, used_by: holder.map(|holder| holder.to_string()), key_id })
}
