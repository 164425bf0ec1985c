//! What accounting systems and cost tools import.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bigdecimal::BigDecimal;
use farebox_core::clock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::finance::{closed, decimal, export, issued, rows, second_opinion};
use crate::harness::Suite;
use crate::tenant::Tenant;

const ALL: &str = "from=2026-01-01&to=2028-01-01";

/// What accounting systems import has the amounts of the invoices, by the names that were set for it.
pub async fn accounting_systems_get_their_files(suite: &Suite) {
    let tenant = closed(suite).await;
    let codes =
        json!({ "account": "4000", "accounts": { "usage": "4100" }, "taxes": { "VAT 19": "19% USt" }, "untaxed": "0%", "item": "API" });
    let set = tenant.call(Method::PUT, "/api/v1/accounting-codes/xero").json(&codes).send().await.expect("an answer");
    assert_eq!(set.status(), StatusCode::OK);
    let (_, xero) = rows(&tenant, "xero", ALL).await;
    let first = xero.iter().find(|row| row["*UnitAmount"] == "2.63").expect("September's usage");
    let shown =
        ["*ContactName", "*InvoiceDate", "*Quantity", "*AccountCode", "*TaxType", "TaxAmount", "Currency"].map(|name| first[name].as_str());
    let today = clock::now().with_timezone(&chrono_tz::Europe::Berlin).format("%d/%m/%Y").to_string();
    assert_eq!(shown, ["initech", today.as_str(), "1", "4100", "19% USt", "0.50", "EUR"]);
    for (report, amount, tax) in
        [("xero", "*UnitAmount", "TaxAmount"), ("quickbooks", "*ItemAmount", "ItemTaxAmount"), ("netsuite", "Amount", "Tax Amount")]
    {
        let (_, found) = rows(&tenant, report, ALL).await;
        let sum = |column: &str| found.iter().map(|row| decimal(&row[column])).sum::<BigDecimal>();
        assert_eq!((sum(amount), sum(tax)), (decimal("203.88"), decimal("38.74")), "{report}");
    }
    let (_, focus) = rows(&tenant, "focus", ALL).await;
    let mut by_invoice: BTreeMap<String, BigDecimal> = BTreeMap::new();
    for charge in &focus {
        *by_invoice.entry(charge["InvoiceId"].clone()).or_default() += decimal(&charge["BilledCost"]);
    }
    for invoice in issued(&tenant, "initech").await {
        let number = invoice["number"].as_str().expect("a number");
        assert_eq!(by_invoice[number], decimal(invoice["total"].as_str().expect("a decimal")), "charges add up to the invoice");
    }
    std::fs::write(suite.data.join("focus.csv"), export(&tenant, "focus", ALL).await.1).expect("written");
    let parquet = tenant.call(Method::GET, &format!("/api/v1/exports/xero?{ALL}&format=parquet")).send().await.expect("an answer");
    assert_eq!(parquet.status(), StatusCode::UNPROCESSABLE_ENTITY);
}

/// A credit note over 0.50 of usage with its tax, and one over all of another invoice.
async fn credited(tenant: &Tenant) -> Vec<Value> {
    let found = issued(tenant, "initech").await;
    let usage = found[0]["lines"].as_array().expect("lines").iter().find(|line| line["kind"] == "usage").expect("usage");
    let mut notes = Vec::new();
    for (invoice, body) in [(&found[0], json!({"lines": [{"line": usage["id"], "amount": "0.50"}]})), (&found[1], json!({}))] {
        let path = format!("/api/v1/invoices/{}/credit-notes", invoice["id"].as_str().expect("an id"));
        let made = tenant.call(Method::POST, &path).json(&body).send().await.expect("an answer");
        assert_eq!(made.status(), StatusCode::CREATED);
        notes.push(made.json().await.expect("JSON"));
    }
    notes
}

/// Credit notes come as each system's own document, with the amounts of the notes, and name what they correct.
pub async fn accounting_systems_get_credit_notes(suite: &Suite) {
    let tenant = closed(suite).await;
    let notes = credited(&tenant).await;
    let (first, second) = (&notes[0], &notes[1]);
    let text = |note: &Value, name: &str| note[name].as_str().expect("a text").to_owned();
    for (report, net, tax, sign) in [
        ("xero-credit-notes", "*UnitAmount", "TaxAmount", -1),
        ("quickbooks-credit-memos", "*ItemAmount", "ItemTaxAmount", 1),
        ("netsuite-credit-memos", "Amount", "Tax Amount", 1),
    ] {
        let (manifest, found) = rows(&tenant, report, ALL).await;
        assert_eq!(manifest["rows"], json!(1 + second["lines"].as_array().expect("lines").len()), "{report}");
        let sum = |column: &str| found.iter().map(|row| decimal(&row[column])).sum::<BigDecimal>() * BigDecimal::from(sign);
        let of = |name: &str| decimal(&text(first, name)) + decimal(&text(second, name));
        assert_eq!((sum(net), sum(tax)), (of("subtotal"), of("tax")), "{report}");
    }
    let (_, xero) = rows(&tenant, "xero-credit-notes", ALL).await;
    let shown = ["*InvoiceNumber", "Reference", "*UnitAmount", "TaxAmount"].map(|name| xero[0][name].as_str());
    assert_eq!(shown, [&text(first, "number"), &text(first, "invoice_number"), "-0.50", "-0.10"]);
    let (_, memos) = rows(&tenant, "quickbooks-credit-memos", ALL).await;
    assert_eq!(
        (&memos[0]["*CreditMemoNo"], &memos[0]["Memo"]),
        (&text(first, "number"), &format!("Corrects {}", text(first, "invoice_number")))
    );
    // Applied to its invoice once, over the whole note.
    let (_, memos) = rows(&tenant, "netsuite-credit-memos", ALL).await;
    let applied: Vec<_> = memos
        .iter()
        .filter(|row| !row["Apply External ID"].is_empty())
        .map(|row| (row["External ID"].clone(), row["Apply External ID"].clone(), row["Apply Payment"].clone()))
        .collect();
    assert_eq!(applied, [first, second].map(|note| (text(note, "id"), text(note, "invoice"), text(note, "total"))));

    // FOCUS: the same charges once more, negative, as corrections; an invoice with its notes is what is left of it.
    let (_, focus) = rows(&tenant, "focus", ALL).await;
    let corrections: Vec<_> = focus.iter().filter(|row| row["ChargeClass"] == "Correction").collect();
    let back: BigDecimal = corrections.iter().map(|row| decimal(&row["BilledCost"])).sum();
    assert_eq!(back, -(decimal(&text(first, "total")) + decimal(&text(second, "total"))));
    let tax = corrections.iter().find(|row| row["ChargeCategory"] == "Tax" && row["InvoiceId"] == text(first, "number")).expect("its tax");
    assert_eq!((tax["BilledCost"].as_str(), tax["PricingQuantity"].as_str(), tax["ConsumedQuantity"].as_str()), ("-0.10", "", ""));
    let file = suite.data.join("focus.parquet");
    std::fs::write(&file, export(&tenant, "focus", &format!("{ALL}&format=parquet")).await.1).expect("written");
    assert_eq!(broken_rules(&file).await, NOT_OF_US.map(str::to_owned).into());
    let (_, csv) = export(&tenant, "focus", ALL).await;
    let file = suite.data.join("focus-wrong.csv");
    std::fs::write(&file, String::from_utf8(csv).expect("UTF-8").replace(",Integration,", ",Integrations,")).expect("written");
    let wrong = broken_rules(&file).await;
    assert!(wrong.iter().any(|rule| rule.starts_with("ServiceCategory")), "the validator looks at categories: {wrong:?}");
}

/// Rules that FOCUS' validator asks of more rows than the specification: an effective cost of nothing of every purchase, where
/// only those that cover later charges are meant; and no invoice of any charge, where only those without one are meant.
const NOT_OF_US: [&str; 2] = ["EffectiveCost-C-005-C", "InvoiceId-C-004-C"];

/// The rules of FOCUS 1.2 that a file breaks, by FOCUS' own validator.
async fn broken_rules(file: &Path) -> BTreeSet<String> {
    let file = file.to_str().expect("UTF-8");
    let (_, said) = second_opinion(&[
        "-m",
        "focus_validator.main",
        "--data-file",
        file,
        "--validate-version",
        "1.2",
        "--block-download",
        "--applicability-criteria",
        "ACCOUNT_NAMING_SUPPORTED",
    ])
    .await;
    let passed = said.split("Pass: ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|count| count.parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed > 100), "{said}");
    let failed = said.lines().filter_map(|line| line.strip_prefix("❌ ")?.split(':').next());
    failed.map(str::to_owned).collect()
}
