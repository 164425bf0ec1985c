//! What an accounting system calls our accounts, taxes and items.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use farebox_core::money::plain;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::BillingError;

const MOST: usize = 200;
const LONGEST: usize = 200;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Codes {
    /// The revenue account of every line,
    pub account: String,
    /// but for these kinds of line: `{"usage": "210"}`.
    #[serde(default)]
    pub accounts: BTreeMap<String, String>,
    /// By name and rate: `{"VAT 19": "19% (VAT on Income)"}`. A tax that is not here goes by its own name and rate.
    #[serde(default)]
    pub taxes: BTreeMap<String, String>,
    /// The tax of lines without one.
    pub untaxed: String,
    /// The product or service of every line.
    pub item: String,
}

impl Codes {
    fn of_system(system: &str) -> Self {
        let untaxed = if system == "quickbooks" { "NON" } else { "Tax Exempt" };
        Self {
            account: "200".to_owned(),
            accounts: BTreeMap::new(),
            taxes: BTreeMap::new(),
            untaxed: untaxed.to_owned(),
            item: "API".to_owned(),
        }
    }

    pub fn account(&self, kind: &str) -> &str {
        self.accounts.get(kind).unwrap_or(&self.account)
    }

    pub fn tax(&self, name: Option<&str>, rate: Option<&BigDecimal>) -> String {
        let (Some(name), Some(rate)) = (name, rate) else { return self.untaxed.clone() };
        let key = format!("{name} {}", plain(&(rate * BigDecimal::from(100))));
        self.taxes.get(&key).cloned().unwrap_or_else(|| format!("{key}%"))
    }

    fn check(&self) -> Result<(), BillingError> {
        let all = [&self.account, &self.untaxed, &self.item].into_iter().chain(self.accounts.values()).chain(self.taxes.values());
        if self.accounts.len() + self.taxes.len() > MOST {
            return Err(BillingError::invalid("/taxes", format!("at most {MOST} accounts and taxes")));
        }
        if all.into_iter().any(|code| code.trim().is_empty() || code.len() > LONGEST) {
            return Err(BillingError::invalid("/account", format!("every code has 1 to {LONGEST} bytes")));
        }
        Ok(())
    }
}

/// The workspace's own, or what a fresh company of that system has.
pub async fn codes(conn: &mut PgConnection, ws: &WorkspaceId, system: &str) -> Result<Codes, BillingError> {
    let found = sqlx::query_scalar!("SELECT codes FROM accounting_codes WHERE workspace_id = $1 AND system = $2", ws.as_str(), system)
        .fetch_optional(conn)
        .await?;
    match found {
        None => Ok(Codes::of_system(system)),
        Some(json) => serde_json::from_value(json).map_err(|e| BillingError::unreadable("accounting codes", e)),
    }
}

pub async fn set_codes(conn: &mut PgConnection, ws: &WorkspaceId, system: &str, codes: &Codes) -> Result<(), BillingError> {
    codes.check()?;
    sqlx::query!(
        "INSERT INTO accounting_codes (workspace_id, system, codes, updated_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (workspace_id, system) DO UPDATE SET codes = $3, updated_at = $4",
        ws.as_str(),
        system,
        serde_json::to_value(codes).map_err(|e| BillingError::unreadable("accounting codes", e))?,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(())
}
