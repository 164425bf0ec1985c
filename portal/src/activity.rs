//! When each key of a consumer was last used.

use std::collections::HashMap;

use chrono::{DateTime, Duration, Utc};
use farebox_core::ids::{ConsumerId, CredentialId};
use farebox_core::period::Period;
use farebox_metering::latest;

use crate::Portal;
use crate::context::Ctx;
use crate::failure::Failure;

/// Further back than this, a key counts as not used.
const BACK: Duration = Duration::days(400);

#[derive(Debug, Default)]
pub struct LastUsed {
    by_key: HashMap<CredentialId, DateTime<Utc>>,
    /// With a key or without.
    pub any: Option<DateTime<Utc>>,
}

impl LastUsed {
    pub fn of(&self, key: &CredentialId) -> Option<DateTime<Utc>> {
        self.by_key.get(key).copied()
    }
}

pub async fn last_used(portal: &Portal, ctx: &Ctx, consumer: &ConsumerId) -> Result<LastUsed, Failure> {
    let end = ctx.now() + Duration::minutes(5); // clocks of gateways differ
    let found = latest::last_used(&portal.app, &ctx.workspace.id, consumer, Period { start: end - BACK, end }).await?;
    let any = found.iter().map(|(_, at)| *at).max();
    Ok(LastUsed { by_key: found.into_iter().filter_map(|(key, at)| Some((key?, at))).collect(), any })
}
