//! Documents as they were first made.

use askama::Template;
use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::clock;
use farebox_core::ids::{CreditNoteId, InvoiceId};
use farebox_core::workspace::Workspace;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::model::{Document, credit_note_document, document};
use super::pdf;
use super::ubl::{credit_note_ubl, ubl};
use super::view::View;
use crate::invoices::{self, State};
use crate::{BillingError, credit_notes};

/// Typesetting takes a processor's whole attention.
static TURNS: Semaphore = Semaphore::const_new(2);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Medium {
    #[default]
    Pdf,
    Html,
    Json,
    /// UBL 2.1 by EN 16931.
    Ubl,
}

impl Medium {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Html => "html",
            Self::Json => "json",
            Self::Ubl => "ubl",
        }
    }

    fn extension(self) -> &'static str {
        if self == Self::Ubl { "xml" } else { self.as_str() }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Pdf => "application/pdf",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Ubl => "application/xml",
        }
    }
}

/// A document's bytes and the name of its file.
#[derive(Debug, Clone)]
pub struct File {
    pub name: String,
    pub medium: Medium,
    pub bytes: Vec<u8>,
}

/// None when there is no such invoice. What was made of an issued invoice once is what this gives ever after.
pub async fn get(app: &App, workspace: &Workspace, id: &InvoiceId, medium: Medium) -> Result<Option<File>, BillingError> {
    let mut conn = app.pg.acquire().await?;
    let Some(invoice) = invoices::get(&mut conn, &workspace.id, id).await? else { return Ok(None) };
    let name = format!("{}.{}", file_name(invoice.number.as_deref().unwrap_or("draft")), medium.extension());
    let file = |bytes| Ok(Some(File { name, medium, bytes }));
    let variant = if invoice.state == State::Void { "void" } else { "issued" };
    let kept = sqlx::query_scalar!(
        "SELECT bytes FROM invoice_documents WHERE workspace_id = $1 AND invoice_id = $2 AND variant = $3 AND medium = $4",
        workspace.id.as_str(),
        id.as_str(),
        variant,
        medium.as_str()
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(bytes) = kept {
        return file(bytes);
    }
    drop(conn);
    let bytes = match medium {
        Medium::Ubl => ubl(&invoice, workspace.time_zone)?.into_bytes(),
        _ => {
            let made_at = invoice.issued_at.unwrap_or(invoice.created_at);
            make(document(&invoice, workspace.time_zone)?, id.as_str(), made_at, medium).await?
        }
    };
    if invoice.state == State::Draft {
        return file(bytes);
    }
    // Of two who make it at once, both serve what the first one kept.
    sqlx::query!(
        "INSERT INTO invoice_documents (workspace_id, invoice_id, variant, medium, bytes, made_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
        workspace.id.as_str(),
        id.as_str(),
        variant,
        medium.as_str(),
        bytes,
        clock::now()
    )
    .execute(&app.pg)
    .await?;
    let kept = sqlx::query_scalar!(
        "SELECT bytes FROM invoice_documents WHERE workspace_id = $1 AND invoice_id = $2 AND variant = $3 AND medium = $4",
        workspace.id.as_str(),
        id.as_str(),
        variant,
        medium.as_str()
    )
    .fetch_one(&app.pg)
    .await?;
    file(kept)
}

/// None when there is no such credit note. Pending and refused ones are no documents.
pub async fn of_credit_note(app: &App, workspace: &Workspace, id: &CreditNoteId, medium: Medium) -> Result<Option<File>, BillingError> {
    let mut conn = app.pg.acquire().await?;
    let Some(note) = credit_notes::get(&mut conn, &workspace.id, id).await? else { return Ok(None) };
    let (Some(number), Some(issued_at)) = (&note.number, note.issued_at) else {
        return Err(BillingError::conflict("not-issued", "This credit note is not issued: there is no document of it."));
    };
    let invoice = invoices::get(&mut conn, &workspace.id, &note.invoice).await?.ok_or(BillingError::NotFound("invoice"))?;
    drop(conn);
    let name = format!("{}.{}", file_name(number), medium.extension());
    let variant = if note.state == credit_notes::State::Void { "void" } else { "issued" };
    let kept = async || {
        sqlx::query_scalar!(
            "SELECT bytes FROM credit_note_documents WHERE workspace_id = $1 AND credit_note_id = $2 AND variant = $3 AND medium = $4",
            workspace.id.as_str(),
            id.as_str(),
            variant,
            medium.as_str()
        )
        .fetch_optional(&app.pg)
        .await
    };
    if let Some(bytes) = kept().await? {
        return Ok(Some(File { name, medium, bytes }));
    }
    let bytes = match medium {
        Medium::Ubl => credit_note_ubl(&note, &invoice, workspace.time_zone)?.into_bytes(),
        _ => make(credit_note_document(&note, &invoice, workspace.time_zone)?, id.as_str(), issued_at, medium).await?,
    };
    sqlx::query!(
        "INSERT INTO credit_note_documents (credit_note_id, workspace_id, variant, medium, bytes, made_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
        id.as_str(),
        workspace.id.as_str(),
        variant,
        medium.as_str(),
        bytes,
        clock::now()
    )
    .execute(&app.pg)
    .await?;
    Ok(kept().await?.map(|bytes| File { name, medium, bytes }))
}

async fn make(document: Document, id: &str, made_at: DateTime<Utc>, medium: Medium) -> Result<Vec<u8>, BillingError> {
    let failed = |error: &dyn std::fmt::Display| BillingError::unreadable("a document", error);
    match medium {
        Medium::Json | Medium::Ubl => serde_json::to_vec_pretty(&document).map_err(|e| failed(&e)),
        Medium::Html => View::new(&document).render().map(String::into_bytes).map_err(|e| failed(&e)),
        Medium::Pdf => {
            let (view, id) = (View::new(&document), id.to_owned());
            let _turn = TURNS.acquire().await.map_err(|e| failed(&e))?;
            tokio::task::spawn_blocking(move || pdf::print(&view, &id, made_at)).await.map_err(|e| failed(&e))?
        }
    }
}

/// A number as a file's name, whatever its prefix holds.
fn file_name(number: &str) -> String {
    number.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' }).collect()
}
