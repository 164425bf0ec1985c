//! An issued invoice or credit note as UBL 2.1 by EN 16931, the European norm of electronic invoices (with Peppol's business process, so
//! that access points take it). Texts in parentheses are the norm's terms and rules.
//!
//! Each of our lines is one line of quantity 1 (or -1, for what is given back) at the price of its net amount, since our
//! amounts are final and the norm would multiply a unit price again; the metered quantity is in its description. What an
//! earlier invoice left to this one was taxed there, and so were prepaid credits used after tax: it is an amount already settled (BT-113), never a line.

use std::fmt::Write;

use bigdecimal::BigDecimal;
use chrono_tz::Tz;
use farebox_core::money::{Money, plain};
use farebox_core::period::local_date;

use super::model::{Days, Document, Party, as_invoice, credit_note_document, document, is_reverse_charge};
use crate::BillingError;
use crate::credit_notes::{self, CreditNote};
use crate::invoices::{Invoice, InvoiceLine, State};
use crate::rating::plan::Collect;

/// A tax category of the norm (BT-118, UNCL5305) with its rate.
#[derive(Debug, Clone, PartialEq)]
struct Category {
    code: &'static str,
    /// In percent; none outside the tax's scope.
    percent: Option<BigDecimal>,
    reason: Option<String>,
}

struct Group {
    category: Category,
    base: Money,
    tax: Money,
}

/// Says what is missing when the norm asks for more than the invoice has.
pub fn ubl(invoice: &Invoice, zone: Tz) -> Result<String, BillingError> {
    if matches!(invoice.state, State::Draft | State::Void) {
        let detail = "Only an issued invoice that is not void can be an e-invoice.";
        return Err(BillingError::conflict("no-e-invoice", detail));
    }
    let document = document(invoice, zone)?;
    write(invoice, &document, &INVOICE, zone)
}

/// A credit note in the same norm, naming the invoice that it corrects (BG-3).
pub fn credit_note_ubl(note: &CreditNote, invoice: &Invoice, zone: Tz) -> Result<String, BillingError> {
    if note.state == credit_notes::State::Void {
        return Err(BillingError::conflict("no-e-invoice", "A credit note that is void is no e-invoice."));
    }
    let document = credit_note_document(note, invoice, zone)?;
    write(&as_invoice(note, invoice), &document, &CREDIT_NOTE, zone)
}

/// What differs between both kinds of documents.
struct Shape {
    root: &'static str,
    type_code: (&'static str, &'static str),
    line: &'static str,
    quantity: &'static str,
}

const INVOICE: Shape =
    Shape { root: "Invoice", type_code: ("cbc:InvoiceTypeCode", "380"), line: "cac:InvoiceLine", quantity: "cbc:InvoicedQuantity" };
const CREDIT_NOTE: Shape = Shape {
    root: "CreditNote",
    type_code: ("cbc:CreditNoteTypeCode", "381"),
    line: "cac:CreditNoteLine",
    quantity: "cbc:CreditedQuantity",
};

fn write(invoice: &Invoice, document: &Document, shape: &Shape, zone: Tz) -> Result<String, BillingError> {
    let refused = |detail: String| BillingError::conflict("no-e-invoice", detail);
    if invoice.currency.exponent() > 2 {
        return Err(refused(format!("EN 16931 knows amounts of two decimals, and {} has more.", invoice.currency)));
    }
    for (who, party, fix) in [
        ("seller", &document.seller, "Set `seller.address.country` in the catalogue; it holds for invoices issued from then on."),
        ("buyer", &document.buyer, "Set the consumer's `address.country`; it holds for invoices issued from then on."),
    ] {
        if party.country.is_none() {
            return Err(refused(format!("EN 16931 asks for the {who}'s country, which this invoice does not have. {fix}")));
        }
    }
    Writer { invoice, document, shape, zone, xml: String::new() }.write()
}

struct Writer<'a> {
    invoice: &'a Invoice,
    document: &'a Document,
    shape: &'a Shape,
    zone: Tz,
    xml: String,
}

impl Writer<'_> {
    fn write(mut self) -> Result<String, BillingError> {
        let (lines, carried): (Vec<_>, Vec<_>) = self.invoice.lines.iter().partition(|line| !line.kind.is_set_off());
        let groups = self.groups(&lines)?;
        let out_of_scope = groups.iter().any(|group| group.category.code == "O");
        let _ = write!(
            self.xml,
            "{DECLARATION}<{root} xmlns=\"urn:oasis:names:specification:ubl:schema:xsd:{root}-2\" {NAMES}>",
            root = self.shape.root
        );
        self.text("cbc:CustomizationID", "urn:cen.eu:en16931:2017#compliant#urn:fdc:peppol.eu:2017:poacc:billing:3.0");
        self.text("cbc:ProfileID", "urn:fdc:peppol.eu:2017:poacc:billing:01:1.0");
        self.text("cbc:ID", &self.document.number.clone());
        if let Some(on) = self.document.issued_on {
            self.text("cbc:IssueDate", &on.to_string());
        }
        let is_invoice = self.document.corrects.is_none();
        let due = self.invoice.due_at.or(self.invoice.issued_at).map(|at| local_date(at, self.zone));
        if let Some(due) = due.filter(|_| is_invoice) {
            self.text("cbc:DueDate", &due.to_string());
        }
        let (name, code) = self.shape.type_code;
        self.text(name, code);
        self.text("cbc:Note", &self.document.notes.join(" "));
        self.text("cbc:DocumentCurrencyCode", self.invoice.currency.code());
        self.text("cbc:BuyerReference", self.invoice.consumer.as_str());
        self.period(self.document.period);
        if let Some(number) = &self.document.corrects {
            self.xml.push_str("<cac:BillingReference><cac:InvoiceDocumentReference>");
            self.text("cbc:ID", &number.clone());
            self.xml.push_str("</cac:InvoiceDocumentReference></cac:BillingReference>");
        }
        self.party("cac:AccountingSupplierParty", &self.document.seller.clone(), out_of_scope);
        self.party("cac:AccountingCustomerParty", &self.document.buyer.clone(), out_of_scope);
        if is_invoice {
            self.payment_means();
        }
        self.totals(&groups, &carried)?;
        for (index, line) in lines.iter().enumerate() {
            let category = self.category(line);
            self.line(index + 1, line, &category)?;
        }
        let _ = writeln!(self.xml, "</{}>", self.shape.root);
        Ok(self.xml)
    }

    fn payment_means(&mut self) {
        let (means, name) = match self.invoice.collect {
            Collect::Automatically => ("48", "Bank card"),
            Collect::SendInvoice => ("30", "Credit transfer"),
        };
        let _ = write!(self.xml, "<cac:PaymentMeans><cbc:PaymentMeansCode name=\"{name}\">{means}</cbc:PaymentMeansCode>");
        self.text("cbc:PaymentID", &self.document.number.clone());
        self.xml.push_str("</cac:PaymentMeans>");
    }

    /// The tax of a line: standard (S), zero (Z), reverse charge (AE), exempt (E), or out of scope (O).
    fn category(&self, line: &InvoiceLine) -> Category {
        let sealed = |key: &str| self.invoice.buyer.get(key).and_then(|value| value.as_str()).unwrap_or_default();
        let zero = Some(BigDecimal::from(0));
        if let Some(tax) = &line.tax {
            let percent = (&tax.rate * BigDecimal::from(100)).normalized();
            let code = if percent == BigDecimal::from(0) { "Z" } else { "S" };
            return Category { code, percent: Some(percent), reason: None };
        }
        let reverse =
            sealed("tax_status") == "reverse_charge" || is_reverse_charge(self.invoice, &self.document.seller, &self.document.buyer);
        if reverse {
            return Category { code: "AE", percent: zero, reason: Some("Reverse charge".to_owned()) };
        }
        if let Some(note) = &self.invoice.tax_note {
            return Category { code: "E", percent: zero, reason: Some(note.clone()) };
        }
        // What is not taxed beside what is must be exempt, since the norm does not mix "out of scope" with others (BR-O-11).
        if self.invoice.lines.iter().any(|other| other.tax.is_some()) {
            return Category { code: "E", percent: zero, reason: Some("Not taxed".to_owned()) };
        }
        Category { code: "O", percent: None, reason: Some("Not subject to VAT".to_owned()) }
    }

    fn groups(&self, lines: &[&InvoiceLine]) -> Result<Vec<Group>, BillingError> {
        let zero = Money::zero(self.invoice.currency);
        let mut groups: Vec<Group> = Vec::new();
        for line in lines {
            let (category, tax) = (self.category(line), line.tax.as_ref().map_or(zero, |tax| tax.amount));
            match groups.iter_mut().find(|group| group.category == category) {
                Some(group) => {
                    group.base = group.base.checked_add(line.net())?;
                    group.tax = group.tax.checked_add(tax)?;
                }
                None => groups.push(Group { category, base: line.net(), tax }),
            }
        }
        Ok(groups)
    }

    fn totals(&mut self, groups: &[Group], carried: &[&InvoiceLine]) -> Result<(), BillingError> {
        let currency = self.invoice.currency;
        let net = Money::sum(groups.iter().map(|group| group.base), currency)?;
        let tax = Money::sum(groups.iter().map(|group| group.tax), currency)?;
        let gross = net.checked_add(tax)?;
        let settled = Money::zero(currency).checked_sub(Money::sum(carried.iter().map(|line| line.net()), currency)?)?;
        self.xml.push_str("<cac:TaxTotal>");
        self.amount("cbc:TaxAmount", tax);
        for group in groups {
            self.xml.push_str("<cac:TaxSubtotal>");
            self.amount("cbc:TaxableAmount", group.base);
            self.amount("cbc:TaxAmount", group.tax);
            self.tax_category("cac:TaxCategory", &group.category, true);
            self.xml.push_str("</cac:TaxSubtotal>");
        }
        self.xml.push_str("</cac:TaxTotal><cac:LegalMonetaryTotal>");
        self.amount("cbc:LineExtensionAmount", net);
        self.amount("cbc:TaxExclusiveAmount", net);
        self.amount("cbc:TaxInclusiveAmount", gross);
        if !settled.is_zero() {
            self.amount("cbc:PrepaidAmount", settled);
        }
        self.amount("cbc:PayableAmount", gross.checked_sub(settled)?);
        self.xml.push_str("</cac:LegalMonetaryTotal>");
        Ok(())
    }

    fn line(&mut self, number: usize, line: &InvoiceLine, category: &Category) -> Result<(), BillingError> {
        let net = line.net();
        let (quantity, price) = if net.minor < 0 { ("-1", Money::zero(net.currency).checked_sub(net)?) } else { ("1", net) };
        let Shape { line: element, quantity: counted, .. } = *self.shape;
        let _ = write!(self.xml, "<{element}>");
        self.text("cbc:ID", &number.to_string());
        let _ = write!(self.xml, "<{counted} unitCode=\"C62\">{quantity}</{counted}>");
        self.amount("cbc:LineExtensionAmount", net);
        self.period(self.document.lines[line_index(self.invoice, line)].days);
        self.xml.push_str("<cac:Item>");
        let description = format!("{}: {}", plain(&line.quantity), line.explanation);
        self.text("cbc:Description", &description);
        self.text("cbc:Name", &line.name);
        self.tax_category("cac:ClassifiedTaxCategory", category, false);
        self.xml.push_str("</cac:Item><cac:Price>");
        self.amount("cbc:PriceAmount", price);
        let _ = write!(self.xml, "</cac:Price></{element}>");
        Ok(())
    }

    fn tax_category(&mut self, name: &str, category: &Category, with_reason: bool) {
        let _ = write!(self.xml, "<{name}>");
        self.text("cbc:ID", category.code);
        if let Some(percent) = &category.percent {
            self.text("cbc:Percent", &plain(percent));
        }
        if let (Some(reason), true) = (&category.reason, with_reason) {
            self.text("cbc:TaxExemptionReason", reason);
        }
        let _ = write!(self.xml, "<cac:TaxScheme><cbc:ID>VAT</cbc:ID></cac:TaxScheme></{name}>");
    }

    fn period(&mut self, days: Days) {
        self.xml.push_str("<cac:InvoicePeriod>");
        self.text("cbc:StartDate", &days.first.to_string());
        self.text("cbc:EndDate", &days.last.to_string());
        self.xml.push_str("</cac:InvoicePeriod>");
    }

    /// Out of the tax's scope a party must not show its tax number (BR-O-02).
    fn party(&mut self, role: &str, party: &Party, out_of_scope: bool) {
        let _ = write!(self.xml, "<{role}><cac:Party>");
        if let Some(email) = &party.email {
            let _ = write!(self.xml, "<cbc:EndpointID schemeID=\"EM\">{}</cbc:EndpointID>", escaped(email));
        }
        self.xml.push_str("<cac:PartyName>");
        self.text("cbc:Name", &party.name);
        self.xml.push_str("</cac:PartyName><cac:PostalAddress>");
        if let Some(street) = &party.line1 {
            self.text("cbc:StreetName", street);
        }
        if let Some(more) = &party.line2 {
            self.text("cbc:AdditionalStreetName", more);
        }
        if let Some(city) = &party.city {
            self.text("cbc:CityName", city);
        }
        if let Some(zone) = &party.postal_code {
            self.text("cbc:PostalZone", zone);
        }
        if let Some(state) = &party.state {
            self.text("cbc:CountrySubentity", state);
        }
        self.xml.push_str("<cac:Country>");
        self.text("cbc:IdentificationCode", party.country.as_deref().unwrap_or_default());
        self.xml.push_str("</cac:Country></cac:PostalAddress>");
        if let (Some(id), false) = (&party.tax_id, out_of_scope) {
            self.xml.push_str("<cac:PartyTaxScheme>");
            self.text("cbc:CompanyID", id);
            self.xml.push_str("<cac:TaxScheme><cbc:ID>VAT</cbc:ID></cac:TaxScheme></cac:PartyTaxScheme>");
        }
        self.xml.push_str("<cac:PartyLegalEntity>");
        self.text("cbc:RegistrationName", &party.name);
        if let (Some(id), true) = (&party.tax_id, out_of_scope) {
            self.text("cbc:CompanyID", id);
        }
        let _ = write!(self.xml, "</cac:PartyLegalEntity></cac:Party></{role}>");
    }

    fn text(&mut self, name: &str, text: &str) {
        let _ = write!(self.xml, "<{name}>{}</{name}>", escaped(text));
    }

    fn amount(&mut self, name: &str, amount: Money) {
        let _ = write!(self.xml, "<{name} currencyID=\"{}\">{amount}</{name}>", amount.currency);
    }
}

fn line_index(invoice: &Invoice, line: &InvoiceLine) -> usize {
    invoice.lines.iter().position(|other| other.id == line.id).expect("a line is one of its invoice's")
}

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const NAMES: &str = "xmlns:cac=\"urn:oasis:names:specification:ubl:schema:xsd:CommonAggregateComponents-2\" \
     xmlns:cbc=\"urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2\"";

/// Markup escaped, and what XML 1.0 cannot hold replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => out.push(c),
            _ => out.push('\u{fffd}'),
        }
    }
    out
}
