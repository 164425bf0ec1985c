//! What finance takes away: files that add up, documents that stay, books that balance.

use std::collections::BTreeMap;
use std::process::Stdio;

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_billing::{invoices, ledger};
use farebox_core::auth::Scope;
use farebox_core::ids::InvoiceId;
use farebox_core::{clock, workspace};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{Suite, eventually};
use crate::metering_flow::{call, store_all};
use crate::tenant::Tenant;

/// A name that a spreadsheet would run, and markup that a browser would.
const HOSTILE: &str = "=cmd|' /C calc'!A0 <script>alert(1)</script>";

/// A workspace whose months August to October 2026 are closed: initech uses and pays tax, hostile has a free month.
pub async fn closed(suite: &Suite) -> Tenant {
    let tenant = Tenant::new(suite, "finance").await;
    close(suite, &tenant).await;
    tenant
}

pub async fn close(suite: &Suite, tenant: &Tenant) {
    let catalogue = |subscribed: bool| {
        let subscription =
            |plan: &str| if subscribed { format!("[{{plan: {plan}, from: 2026-08-01T00:00:00+02:00}}]") } else { "[]".to_owned() };
        format!(
            r#"workspace: {}
currency: EUR
time_zone: Europe/Berlin
seller: {{name: Acme Ltd, address: {{line1: Street 1, postal_code: "10115", city: Berlin, country: DE}}, tax_id: DE123456789, invoice_number_prefix: ACME-}}
taxes: [{{name: VAT, rate: "0.19", inclusive: false, countries: [DE]}}]
apis:
  - {{name: orders, product: default, versions: [{{name: v1}}]}}
plans:
  - name: growth
    version: 1
    terms: {{collect: send_invoice, due_days: 14}}
    prices:
      - {{name: Platform, model: flat, amount: "49"}}
      - {{name: Requests, model: per_unit, meter: requests, unit_amount: "0.125"}}
  - name: free
    version: 1
    prices: [{{name: Requests, model: per_unit, meter: requests, unit_amount: "0"}}]
consumers:
  - {{name: initech, email: dev@initech.example, address: {{line1: Weg 2, postal_code: "20095", city: Hamburg, country: DE}}, subjects: [initech], subscriptions: {}}}
  - {{name: "{HOSTILE}", address: {{country: US}}, subjects: [hostile], subscriptions: {}}}
"#,
            tenant.workspace.name,
            subscription("growth"),
            subscription("free")
        )
    };
    // The events are there before the subscriptions, since the scheduled close may come at any time.
    apply(tenant, catalogue(false)).await;
    let mut rows = Vec::new();
    for (month, count) in [(8, 10), (9, 21), (10, 32)] {
        for n in 0..count {
            let time: DateTime<Utc> = format!("2026-{month:02}-10T12:{n:02}:00Z").parse().expect("an instant");
            rows.push(call(&tenant.workspace.id, "initech", time));
        }
    }
    store_all(&suite.app, &rows).await;
    apply(tenant, catalogue(true)).await;
    let closed = tenant.call(Method::POST, "/api/v1/close").json(&json!({ "period": "2026-10" })).send().await.expect("an answer");
    assert_eq!(closed.status(), StatusCode::OK, "{}", closed.text().await.expect("a text"));
}

async fn apply(tenant: &Tenant, catalogue: String) {
    let request = tenant.call(Method::POST, "/api/v1/catalog").header("content-type", "application/yaml").body(catalogue);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.expect("a text"));
}

/// The issued invoices, the oldest period first.
pub async fn issued(tenant: &Tenant, consumer: &str) -> Vec<Value> {
    let mut found = tenant.get("/api/v1/invoices?limit=500").await["data"].as_array().expect("a list").clone();
    found.retain(|invoice| invoice["buyer"]["name"] == consumer);
    found.sort_by_key(|invoice| invoice["period"]["from"].as_str().expect("an instant").to_owned());
    found
}

/// Rows by column name.
fn parsed(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().expect("a header").clone();
    reader.records().map(|row| head.iter().map(str::to_owned).zip(row.expect("a row").iter().map(str::to_owned)).collect()).collect()
}

pub fn decimal(text: &str) -> BigDecimal {
    text.parse().expect("a decimal")
}

/// Adds the rows up as the manifest does: by currency, group and column.
fn added(rows: &[BTreeMap<String, String>], group: &str, columns: &[&str]) -> Value {
    let mut sums: BTreeMap<(String, String), (u64, Vec<BigDecimal>)> = BTreeMap::new();
    for row in rows {
        let sum =
            sums.entry((row["currency"].clone(), row[group].clone())).or_insert_with(|| (0, vec![BigDecimal::from(0); columns.len()]));
        sum.0 += 1;
        for (sum, column) in sum.1.iter_mut().zip(columns) {
            *sum += decimal(&row[*column]);
        }
    }
    let shown = sums.into_iter().map(|((currency, group), (rows, sums))| {
        let sums: serde_json::Map<_, _> =
            columns.iter().zip(sums).map(|(name, sum)| ((*name).to_owned(), json!(sum.with_scale(2).to_plain_string()))).collect();
        json!({ "currency": currency, "group": group, "rows": rows, "sums": sums })
    });
    shown.collect()
}

pub async fn export(tenant: &Tenant, report: &str, query: &str) -> (Value, Vec<u8>) {
    let answer = tenant.call(Method::GET, &format!("/api/v1/exports/{report}?{query}")).send().await.expect("an answer");
    let status = answer.status();
    let manifest = answer.headers().get("x-farebox-manifest").and_then(|value| value.to_str().ok()).unwrap_or("null").to_owned();
    let bytes = answer.bytes().await.expect("whole").to_vec();
    assert_eq!(status, StatusCode::OK, "{report}: {}", String::from_utf8_lossy(&bytes));
    (serde_json::from_str(&manifest).expect("JSON"), bytes)
}

pub async fn rows(tenant: &Tenant, report: &str, query: &str) -> (Value, Vec<BTreeMap<String, String>>) {
    let (manifest, bytes) = export(tenant, report, query).await;
    (manifest, parsed(&String::from_utf8(bytes).expect("UTF-8")))
}

/// What the tests ask for a second opinion, as `engines/fetch --browser` leaves it: a Python program and its verdict.
pub async fn second_opinion(arguments: &[&str]) -> (bool, String) {
    let engines = std::env::var("FAREBOX_ENGINES").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/.engines").to_owned());
    let python = std::path::Path::new(&engines).join("validators/python");
    assert!(python.is_dir(), "{} is missing: run `engines/fetch --browser`", python.display());
    // One of them reads what lies beside it.
    let done =
        Command::new("python3").env("PYTHONPATH", &python).current_dir(&python).args(arguments).output().await.expect("python3 runs");
    (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr))
}

/// Files add up to what the manifest says, in each format, over half-open periods of the workspace's calendar.
pub async fn files_add_up(suite: &Suite) {
    let tenant = closed(suite).await;
    let all = "from=2026-01-01&to=2027-01-01";
    let (manifest, found) = rows(&tenant, "invoices", all).await;
    assert_eq!(manifest["rows"], json!(6));
    assert_eq!(manifest["totals"], added(&found, "state", &["open", "subtotal", "tax", "total"]));
    // 49 + 49 + 10 × 0.125, 49 + 21 × 0.125, 49 + 32 × 0.125, each with 19 %.
    let totals: Vec<_> = issued(&tenant, "initech").await.iter().map(|i| i["total"].as_str().expect("a decimal").to_owned()).collect();
    assert_eq!(totals, ["118.11", "61.44", "63.07"]);
    let hostile = found.iter().find(|row| row["consumer_name"].contains("cmd")).expect("a row");
    assert_eq!(hostile["consumer_name"], format!("'{HOSTILE}"), "no spreadsheet runs a name");

    // Half-open, in the workspace's zone: October began two hours before UTC's.
    let october = "from=2026-10&to=2026-11&by=period";
    assert_eq!(rows(&tenant, "invoices", october).await.0["rows"], json!(2));
    assert_eq!(rows(&tenant, "invoices", "from=2026-09-30&to=2026-10-01&by=period").await.0["rows"], json!(0));
    assert_eq!(rows(&tenant, "invoices", "from=2026-09-30T22:00:00Z&to=2026-10-02&by=period").await.0["rows"], json!(2));

    let (manifest, lines) = rows(&tenant, "lines", all).await;
    assert_eq!(manifest["totals"], added(&lines, "invoice_state", &["amount", "credit", "discount", "net", "tax"]));
    let net: BigDecimal = lines.iter().map(|line| decimal(&line["net"])).sum();
    let subtotal: BigDecimal = found.iter().map(|invoice| decimal(&invoice["subtotal"])).sum();
    assert_eq!(net, subtotal, "lines add up to invoices");
    let usage = lines.iter().find(|line| line["kind"] == "usage" && line["quantity"] == "21").expect("September's usage");
    assert_eq!((usage["proof_events"].as_str(), usage["proof_hash"].len()), ("21", 32));

    // The other formats are whole files of the same rows.
    let (parquet, bytes) = export(&tenant, "lines", &format!("{all}&format=parquet")).await;
    assert_eq!(parquet["totals"], manifest["totals"]);
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let (xlsx, bytes) = export(&tenant, "lines", &format!("{all}&format=xlsx")).await;
    assert_eq!(xlsx["totals"], manifest["totals"]);
    assert!(bytes.starts_with(b"PK"));

    // Who may, and what is wrong, is said.
    let reader = tenant.token_with(suite, &[Scope::Read, Scope::Manage]).await;
    let refused =
        tenant.anonymous(Method::GET, &format!("/api/v1/exports/invoices?{all}")).bearer_auth(reader).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    for (query, field) in
        [("from=2026-13&to=2027", "from"), ("from=2026-10&to=2026-10", "to"), ("from=2026-10&to=2026-11&format=pdf", "format")]
    {
        let wrong = tenant.call(Method::GET, &format!("/api/v1/exports/invoices?{query}")).send().await.expect("an answer");
        assert_eq!(wrong.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(wrong.json::<Value>().await.expect("a problem")["errors"][0]["pointer"], field);
    }
    let stranger = Tenant::new(suite, "stranger").await;
    assert_eq!(rows(&stranger, "lines", all).await.0["rows"], json!(0), "another tenant's books are empty");

    // And by the command, with the manifest beside the file.
    let directory = suite.data.join("exports");
    std::fs::create_dir_all(&directory).expect("a directory");
    let run = async |report: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farebox"));
        command.current_dir(&directory).env("FAREBOX_URL", &suite.credentials.base_url).env("FAREBOX_TOKEN", &tenant.token);
        command.args(["export", report, "--from", "2026-01-01", "--to", "2027-01-01"]).output().await.expect("it runs")
    };
    let done = run("invoices").await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let saved = std::fs::read_to_string(directory.join("invoices-2026-01-01-2027-01-01.csv")).expect("the file");
    assert_eq!(parsed(&saved), found);
    let beside = std::fs::read(directory.join("invoices-2026-01-01-2027-01-01.csv.manifest.json")).expect("the manifest");
    assert_eq!(serde_json::from_slice::<Value>(&beside).expect("JSON")["bytes"], json!(saved.len()));
    // Whoever reads it may stop before its end.
    let mut command = Command::new(env!("CARGO_BIN_EXE_farebox"));
    command.current_dir(&directory).env("FAREBOX_URL", &suite.credentials.base_url).env("FAREBOX_TOKEN", &tenant.token);
    command.args(["export", "invoices", "--from", "2026-01-01", "--to", "2027-01-01"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut unread = command.spawn().expect("it runs");
    drop(unread.stdout.take());
    let done = unread.wait_with_output().await.expect("it ends");
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    let unknown = run("nonsense").await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("must be one of invoices, lines"),
        "{}",
        String::from_utf8_lossy(&unknown.stderr)
    );
}

/// A document is the same bytes for ever, in every medium, and runs nothing.
pub async fn documents_stay_as_they_were(suite: &Suite) {
    let tenant = closed(suite).await;
    let invoice = issued(&tenant, "initech").await.remove(0);
    let id = invoice["id"].as_str().expect("an id").to_owned();
    let document = async |id: &str, format: &str| {
        let answer = tenant.call(Method::GET, &format!("/api/v1/invoices/{id}/document?format={format}")).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let policy = answer.headers()["content-security-policy"].to_str().expect("text").to_owned();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        answer.bytes().await.expect("whole").to_vec()
    };
    let (pdf, html, json) = (document(&id, "pdf").await, document(&id, "html").await, document(&id, "json").await);
    assert!(pdf.starts_with(b"%PDF-"));
    std::fs::write(suite.data.join("invoice.pdf"), &pdf).expect("written");
    let shown = String::from_utf8(html.clone()).expect("UTF-8");
    for part in ["Acme Ltd", "Hamburg", "ACME-0", "118.11", "VAT 19 % on 99.25", "Tax number DE123456789"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let read: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(
        (&read["total"], &read["taxes"][0]["base"], &read["taxes"][0]["amount"]),
        (&json!("118.11"), &json!("99.25"), &json!("18.86"))
    );

    // Neither a payment nor another zone changes what was handed out.
    let (mut conn, at) = (suite.app.pg.acquire().await.expect("PostgreSQL"), clock::now());
    let ws = &tenant.workspace.id;
    let inv: InvoiceId = id.parse().expect("an id");
    assert!(invoices::mark_paid(&mut conn, ws, &inv, at).await.expect("marked"));
    let own = workspace::by_id(&mut conn, ws).await.expect("PostgreSQL").expect("the workspace");
    workspace::update_settings(&mut conn, ws, own.currency, chrono_tz::Asia::Tokyo, &own.seller, &own.taxes).await.expect("set");
    assert_eq!((document(&id, "pdf").await, document(&id, "html").await, document(&id, "json").await), (pdf, html, json));

    // An e-invoice by the schema of UBL 2.1 and the rules of EN 16931; with another total it would be refused.
    let einvoice = document(&id, "ubl").await;
    let file = suite.data.join("einvoice.xml");
    std::fs::write(&file, &einvoice).expect("written");
    let (valid, said) = second_opinion(&["-m", "peppol.cli", file.to_str().expect("UTF-8")]).await;
    assert!(valid, "{said}\n{}", String::from_utf8_lossy(&einvoice));
    let wrong = String::from_utf8(einvoice).expect("UTF-8").replace(">118.11</cbc:PayableAmount>", ">119.11</cbc:PayableAmount>");
    std::fs::write(&file, wrong).expect("written");
    assert!(!second_opinion(&["-m", "peppol.cli", file.to_str().expect("UTF-8")]).await.0, "the validator looks at totals");

    let hostile = issued(&tenant, HOSTILE).await.remove(0);
    let shown = String::from_utf8(document(hostile["id"].as_str().expect("an id"), "html").await).expect("UTF-8");
    assert!(!shown.contains("<script>") && shown.contains("alert(1)"), "{shown}");
    assert!(document(hostile["id"].as_str().expect("an id"), "pdf").await.starts_with(b"%PDF-"));

    let stranger = Tenant::new(suite, "stranger").await;
    let refused = stranger.call(Method::GET, &format!("/api/v1/invoices/{id}/document")).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::NOT_FOUND, "another tenant's invoice is not there");
}

/// Debits equal credits in every journal after every step; reports follow from them; nothing unbalanced gets in.
pub async fn the_books_balance(suite: &Suite) {
    let tenant = closed(suite).await;
    let (pg, ws) = (&suite.app.pg, &tenant.workspace.id);
    let found = issued(&tenant, "initech").await;
    let id = |n: usize| found[n]["id"].as_str().expect("an id").parse::<InvoiceId>().expect("an id");
    let wide = "from=2026-01-01&to=2028-01-01";
    let balances = async || {
        let (manifest, postings) = rows(&tenant, "journal", wide).await;
        assert_eq!(manifest["totals"], added(&postings, "account", &["credit", "debit"]));
        let mut journals: BTreeMap<String, BigDecimal> = BTreeMap::new();
        let mut accounts: BTreeMap<String, BigDecimal> = BTreeMap::new();
        for posting in &postings {
            let amount = decimal(&posting["debit"]) - decimal(&posting["credit"]);
            *journals.entry(posting["journal"].clone()).or_default() += &amount;
            *accounts.entry(posting["account"].clone()).or_default() += amount;
        }
        assert!(journals.values().all(|sum| *sum == BigDecimal::from(0)), "{journals:?}");
        accounts.retain(|_, sum| *sum != BigDecimal::from(0));
        accounts.into_iter().map(|(account, sum)| format!("{account} {}", sum.with_scale(2).to_plain_string())).collect::<Vec<_>>()
    };
    // 99.25 + 51.63 + 53.00 net; 18.86 + 9.81 + 10.07 tax.
    assert_eq!(balances().await, ["receivable 242.62", "revenue -203.88", "tax_payable -38.74"]);
    let (_, aged) = rows(&tenant, "ageing", "from=2026-01-01&to=2027-02-01").await;
    let open: BigDecimal = aged.iter().map(|row| decimal(&row["open"])).sum();
    assert_eq!((open, aged[0]["bucket"].as_str()), (decimal("242.62"), "31-60"));
    let (_, earned) = rows(&tenant, "waterfall", wide).await;
    assert_eq!(earned.iter().map(|row| decimal(&row["revenue"])).sum::<BigDecimal>(), decimal("203.88"));
    let (_, august) = rows(&tenant, "revenue", "from=2026-08&to=2026-09").await;
    assert_eq!(august.iter().map(|row| decimal(&row["revenue"])).sum::<BigDecimal>(), decimal("50.25"), "usage and fee of August alone");

    // Paid, given up and then void: one after the other.
    let mut conn = pg.acquire().await.expect("PostgreSQL");
    let now = clock::now();
    assert!(invoices::mark_paid(&mut conn, ws, &id(0), now).await.expect("marked"));
    assert_eq!(balances().await, ["cash 118.11", "receivable 124.51", "revenue -203.88", "tax_payable -38.74"]);
    assert!(invoices::mark_uncollectible(&mut conn, ws, &id(1), now).await.expect("marked"));
    assert_eq!(balances().await, ["bad_debt 61.44", "cash 118.11", "receivable 63.07", "revenue -203.88", "tax_payable -38.74"]);
    assert!(invoices::mark_void(&mut conn, ws, &id(1), now).await.expect("marked"));
    let after = ["cash 118.11", "receivable 63.07", "revenue -152.25", "tax_payable -28.93"];
    assert_eq!(balances().await, after);

    // As a ledger that beancount checks: every transaction balances, and so do the accounts.
    let (_, postings) = rows(&tenant, "journal", wide).await;
    let file = suite.data.join("books.beancount");
    std::fs::write(&file, beancount(&postings)).expect("written");
    let check = "import sys; from beancount import loader; entries, errors, _ = loader.load_file(sys.argv[1]); \
                 print(len(entries), errors); sys.exit(1 if errors else 0)";
    let (valid, said) = second_opinion(&["-c", check, file.to_str().expect("UTF-8")]).await;
    assert!(valid, "{said}");

    // Booking everything again changes nothing.
    sqlx::query("INSERT INTO ledger_pending (workspace_id, invoice_id) SELECT workspace_id, id FROM invoices WHERE workspace_id = $1")
        .bind(ws.as_str())
        .execute(pg)
        .await
        .expect("noted");
    ledger::settle(pg, ws).await.expect("settles");
    assert_eq!(balances().await, after);

    // The database itself refuses what does not balance, and edits.
    let mut tx = pg.begin().await.expect("PostgreSQL");
    sqlx::query("INSERT INTO ledger_journals (workspace_id, key, kind, booked_on, consumer_id, description, recorded_at) VALUES ($1, 'forged', 'payment', '2026-11-01', 'con', '', now())")
        .bind(ws.as_str())
        .execute(&mut *tx)
        .await
        .expect("inserted");
    sqlx::query("INSERT INTO ledger_postings (journal_id, position, workspace_id, account, currency, amount_minor) SELECT id, 1, workspace_id, 'cash', 'EUR', 1 FROM ledger_journals WHERE key = 'forged' AND workspace_id = $1")
        .bind(ws.as_str())
        .execute(&mut *tx)
        .await
        .expect("inserted");
    assert!(tx.commit().await.expect_err("refused").to_string().contains("does not balance"));
    let edit = sqlx::query("UPDATE ledger_postings SET amount_minor = 2 WHERE workspace_id = $1").bind(ws.as_str()).execute(pg).await;
    assert!(edit.expect_err("refused").to_string().contains("never edited"));
}

/// The journal as a plain-text ledger.
fn beancount(postings: &[BTreeMap<String, String>]) -> String {
    let mut text = String::new();
    let account = |name: &str| {
        let kind = match name {
            "revenue" => "Income",
            "bad_debt" => "Expenses",
            "deferred_revenue" | "tax_payable" | "customer_credit" => "Liabilities",
            _ => "Assets",
        };
        let name: String = name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        format!("{kind}:{name}")
    };
    let accounts: std::collections::BTreeSet<_> = postings.iter().map(|posting| account(&posting["account"])).collect();
    for account in accounts {
        text.push_str(&format!("2026-01-01 open {account}\n"));
    }
    let mut last = String::new();
    for posting in postings {
        if posting["journal"] != last {
            last.clone_from(&posting["journal"]);
            text.push_str(&format!("{} * \"{}\"\n", posting["booked_on"], posting["description"]));
        }
        let amount = decimal(&posting["debit"]) - decimal(&posting["credit"]);
        text.push_str(&format!("  {}  {} {}\n", account(&posting["account"]), amount.to_plain_string(), posting["currency"]));
    }
    text
}

/// A provider without Stripe issues by hand, and records what was paid, voided and given up; what the books say follows.
pub async fn invoices_are_settled_by_hand(suite: &Suite) {
    let tenant = closed(suite).await;
    let found = issued(&tenant, "initech").await;
    let path = |n: usize, verb: &str| format!("/api/v1/invoices/{}/{verb}", found[n]["id"].as_str().expect("an id"));
    let post = async |path: String, body: Value| {
        let answer = tenant.call(Method::POST, &path).json(&body).send().await.expect("an answer");
        (answer.status(), answer.json::<Value>().await.expect("JSON"))
    };
    let transfer = json!({ "paid_at": clock::now(), "method": "transfer", "reference": "RF18 5390 0754" });
    let (status, paid) = post(path(0, "payment"), transfer.clone()).await;
    assert_eq!((status, &paid["state"]), (StatusCode::OK, &json!("paid")), "{paid}");
    assert_eq!(post(path(0, "payment"), transfer.clone()).await.0, StatusCode::OK, "repeated, nothing changes");
    let (status, refused) = post(path(0, "void"), json!({})).await;
    assert_eq!((status, refused["type"].as_str()), (StatusCode::CONFLICT, Some("urn:farebox:problem:cannot-settle")));
    assert_eq!(post(path(1, "uncollectible"), json!({})).await.1["state"], json!("uncollectible"));
    assert_eq!(post(path(1, "payment"), transfer.clone()).await.1["state"], json!("paid"), "what was given up may still be paid");
    assert_eq!(post(path(2, "void"), json!({})).await.1["state"], json!("void"));
    let ahead = json!({ "paid_at": "2100-01-01T00:00:00Z", "method": "transfer", "reference": "x" });
    assert_eq!(post(path(2, "payment"), ahead).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(post(path(2, "payment"), transfer).await.0, StatusCode::CONFLICT, "void stays void");
    let (manifest, _) = rows(&tenant, "journal", "from=2026-01-01&to=2028-01-01").await;
    let cash = manifest["totals"].as_array().expect("totals").iter().find(|total| total["group"] == "cash").expect("cash").clone();
    assert_eq!(cash["sums"]["debit"], json!("179.55"));
}

/// Prepaid credits are revenue when they are used and when they expire, in the reports as in the books: by line kind, and in the
/// month they were bought in.
pub async fn prepaid_credits_are_earned(suite: &Suite) {
    let tenant = closed(suite).await;
    let invoice = issued(&tenant, "initech").await.remove(0);
    let bought = json!({
        "consumer": invoice["consumer"], "name": "Bought", "kind": "paid", "amount": "100.00", "currency": "EUR",
        "expires_at": clock::now() + TimeDelta::seconds(3),
    });
    let made = tenant.call(Method::POST, "/api/v1/credits").json(&bought).send().await.expect("an answer");
    assert_eq!(made.status(), StatusCode::CREATED);
    let grant: Value = made.json().await.expect("JSON");
    let sql = "INSERT INTO credit_entries (workspace_id, grant_id, from_account, to_account, amount_minor, invoice_id, at)
               VALUES ($1, $2, 'balance', 'used', 3000, $3, now())";
    let used = sqlx::query(sql).bind(tenant.workspace.id.as_str()).bind(grant["id"].as_str()).bind(invoice["id"].as_str());
    used.execute(&suite.app.pg).await.expect("used");
    let wide = "from=2026-01-01&to=2028-01-01";
    // A close lets expire what is past.
    let prepaid = eventually("the rest expires", std::time::Duration::from_secs(60), || async {
        let closed = tenant.call(Method::POST, "/api/v1/close").json(&json!({ "period": "2026-10" })).send().await.expect("an answer");
        assert_eq!(closed.status(), StatusCode::OK);
        let (manifest, found) = rows(&tenant, "revenue", wide).await;
        assert_eq!(manifest["totals"], added(&found, "line_kind", &["revenue"]));
        let prepaid: Vec<_> = found.into_iter().filter(|row| row["line_kind"] == "prepaid").collect();
        (prepaid.len() == 2).then_some(prepaid)
    })
    .await;
    let shown: Vec<_> = prepaid.iter().map(|row| (row["name"].as_str(), row["invoice"].as_str(), row["revenue"].as_str())).collect();
    let id = invoice["id"].as_str().expect("an id");
    assert_eq!(shown, [("Bought: balance to used", id, "30.00"), ("Bought: balance to expired", "", "70.00")]);
    let (manifest, found) = rows(&tenant, "waterfall", wide).await;
    assert_eq!(manifest["totals"], added(&found, "state", &["revenue"]));
    let today = clock::now().with_timezone(&chrono_tz::Europe::Berlin).format("%Y-%m-01").to_string();
    let prepaid: Vec<_> = found.iter().filter(|row| row["source"] == "prepaid").collect();
    assert_eq!(prepaid.len(), 1);
    let shown = ["issued_month", "earned_month", "state", "documents", "revenue"].map(|name| prepaid[0][name].as_str());
    assert_eq!(shown, [today.as_str(), &today, "earned", "1", "100.00"]);
    let sum = found.iter().map(|row| decimal(&row["revenue"])).sum::<BigDecimal>();
    assert_eq!(sum, decimal("303.88"), "everything that was earned, once");
}
