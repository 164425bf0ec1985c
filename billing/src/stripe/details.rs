//! What Stripe is told of a consumer: its receipts, mails and invoice pages carry it. Told when the customer is created, and
//! again before the next invoice when it changed here.

use farebox_core::App;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_metering::consumers::{self, Consumer};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::client::{Form, Stripe};
use super::error::StripeError;
use super::view::List;
use crate::documents::EU;
use crate::settings;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// By Stripe's names; what is not known is empty, which is how Stripe is told to forget it.
    fields: Vec<(String, String)>,
    tax_id: Option<TaxId>,
}

/// A tax number of a kind whose form is certain. Any other stands on our own document alone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TaxId {
    kind: &'static str,
    value: String,
}

impl Details {
    pub async fn load(conn: &mut PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Self, StripeError> {
        let tax_id = settings::of_consumer(conn, workspace, consumer).await?.tax_id;
        let consumer = consumers::get(conn, workspace, consumer).await?.ok_or(StripeError::NotFound("consumer"))?;
        Ok(Self::of(&consumer, tax_id.as_deref()))
    }

    fn of(consumer: &Consumer, tax_id: Option<&str>) -> Self {
        let mut fields = vec![
            ("name".to_owned(), consumer.name.clone()),
            ("email".to_owned(), consumer.email.clone().unwrap_or_default()),
            ("address[country]".to_owned(), consumer.country.clone().unwrap_or_default()),
        ];
        for part in ["line1", "line2", "city", "postal_code", "state"] {
            let value = consumer.address.get(part).and_then(|value| value.as_str()).unwrap_or_default();
            fields.push((format!("address[{part}]"), value.to_owned()));
        }
        Self { fields, tax_id: tax_id.and_then(|text| TaxId::of(text, consumer.country.as_deref())) }
    }

    pub fn email(&self) -> Option<&str> {
        self.fields.iter().find(|(name, value)| name == "email" && !value.is_empty()).map(|(_, email)| email.as_str())
    }

    /// For a new customer.
    pub fn known(&self) -> Form {
        let known = self.fields.iter().filter(|(_, value)| !value.is_empty());
        known.fold(Form::new(), |form, (name, value)| form.with(name, value))
    }

    fn whole(&self) -> Form {
        self.fields.iter().fold(Form::new(), |form, (name, value)| form.with(name, value))
    }

    fn digest(&self) -> String {
        let mut whole = self.whole();
        if let Some(tax_id) = &self.tax_id {
            whole = whole.with(tax_id.kind, &tax_id.value);
        }
        hex::encode(Sha256::digest(whole.encoded()))
    }

    /// The digest, where creating a customer with [`Self::known`] says it all.
    pub fn said_by_creating(&self) -> Option<String> {
        self.tax_id.is_none().then(|| self.digest())
    }

    /// Tells Stripe, unless it was told this last. Of several invoices at once one tells, and the others wait: a tax number would
    /// be added by each.
    pub async fn tell(&self, app: &App, stripe: &Stripe, workspace: &WorkspaceId, customer: &str) -> Result<(), StripeError> {
        let digest = self.digest();
        let mut tx = app.pg.begin().await?;
        let told = sqlx::query_scalar!(
            "SELECT details FROM stripe_customers WHERE workspace_id = $1 AND stripe_id = $2 FOR UPDATE",
            workspace.as_str(),
            customer
        );
        if told.fetch_optional(&mut *tx).await?.flatten().as_deref() == Some(&digest) {
            return Ok(());
        }
        stripe.post::<IgnoredAny>(&format!("/customers/{customer}"), &self.whole()).await?;
        self.tell_tax_id(stripe, customer).await?;
        sqlx::query!(
            "UPDATE stripe_customers SET details = $3 WHERE workspace_id = $1 AND stripe_id = $2",
            workspace.as_str(),
            customer,
            digest
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// A tax number cannot be changed there: the new one is added, and others of its kind removed.
    async fn tell_tax_id(&self, stripe: &Stripe, customer: &str) -> Result<(), StripeError> {
        #[derive(Deserialize)]
        struct Known {
            id: String,
            #[serde(rename = "type")]
            kind: String,
            value: String,
        }
        let path = format!("/customers/{customer}/tax_ids");
        let known: List<Known> = stripe.get(&path, &Form::new().with("limit", "100")).await?;
        let is = |known: &Known| self.tax_id.as_ref().is_some_and(|own| own.kind == known.kind && own.value == known.value);
        if let Some(own) = self.tax_id.as_ref().filter(|_| !known.data.iter().any(is)) {
            stripe.post::<IgnoredAny>(&path, &Form::new().with("type", own.kind).with("value", &own.value)).await?;
        }
        for other in known.data.iter().filter(|known| KINDS.contains(&known.kind.as_str()) && !is(known)) {
            stripe.delete(&format!("{path}/{}", other.id)).await?;
        }
        Ok(())
    }
}

const KINDS: [&str; 2] = ["eu_vat", "gb_vat"];

impl TaxId {
    /// From a number as people write it, where the country is known from it or from the consumer.
    fn of(text: &str, country: Option<&str>) -> Option<Self> {
        let mut value: String = text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
        if value.starts_with(|c: char| c.is_ascii_digit()) {
            value.insert_str(0, country?);
        }
        // Greece's numbers begin otherwise than its code.
        if value.starts_with("GR") {
            value.replace_range(..2, "EL");
        }
        let (prefix, number) = value.split_at_checked(2)?;
        let kind = match prefix {
            "GB" => "gb_vat",
            prefix if prefix == "EL" || prefix == "XI" || EU.contains(&prefix) => "eu_vat",
            _ => return None,
        };
        (2..=13).contains(&number.len()).then_some(Self { kind, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tax_numbers_are_told_in_the_form_stripe_takes() {
        let told = |text: &str, country: &str| TaxId::of(text, Some(country)).map(|id| format!("{} {}", id.kind, id.value));
        assert_eq!(told("DE 123.456.789", "DE").as_deref(), Some("eu_vat DE123456789"));
        assert_eq!(told("123456789", "DE").as_deref(), Some("eu_vat DE123456789"));
        assert_eq!(told("gr123456789", "GR").as_deref(), Some("eu_vat EL123456789"));
        assert_eq!(told("GB 123 4567 89", "GB").as_deref(), Some("gb_vat GB123456789"));
        for (text, country) in [("CHE-123.456.789 MWST", "CH"), ("12-3456789", "US"), ("DE", "DE"), ("", "DE"), ("ß", "DE")] {
            assert_eq!(told(text, country), None, "{text}");
        }
    }
}
