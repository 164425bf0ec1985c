use askama::Template;
use farebox_core::money::BigDecimal;
use farebox_portal::format;
use farebox_portal::pages::message::MessagePage;
use farebox_portal::pages::portal::{account, invoices, keys, landing, payment, plan, rules, sign_in, sign_up, start, usage};
use farebox_portal::view::{
    Action, Badge, Cell, Chart, ChartColumn, ChartKind, ChartRow, Code, Column, Facts, Field, Meter, Note, PlanCard, RulerMark, Shell,
    StepState, Table, Tone,
};

use super::{Render, portal};

pub fn pages() -> Vec<(&'static str, Render)> {
    vec![
        ("landing", landing_page),
        ("sign-up", sign_up_page),
        ("sign-in", sign_in_page),
        ("start", start_page),
        ("usage", usage_page),
        ("keys", keys_page),
        ("keys-empty", keys_empty),
        ("key-new", key_new),
        ("key-made", key_made),
        ("key-revoke", key_revoke),
        ("invoices", invoices_page),
        ("invoice", invoice_page),
        ("plan", plan_page),
        ("plan-change", plan_change),
        ("payment", payment_page),
        ("payment-go", || {
            payment::PaymentGoPage { shell: portal("On to Stripe", "/plan"), url: "https://checkout.stripe.com/c/x".into() }
                .render()
                .expect("renders")
        }),
        ("account", account_page),
        ("rules", rules_page),
        ("message", message),
    ]
}

fn plans(current: Option<&str>) -> Vec<PlanCard> {
    [
        ("Sandbox", "Free", vec!["1,000 requests a month, then refused", "2 requests a second"], "No card needed"),
        (
            "Growth",
            "$49 a month",
            vec!["100,000 requests included", "then $0.0004 a request up to 1,000,000", "then $0.0002 a request", "100 requests a second"],
            "14 days free",
        ),
        (
            "Scale",
            "$499 a month",
            vec!["2,000,000 requests included", "then $0.0002 a request", "Egress $0.09 per GB", "500 requests a second"],
            "",
        ),
    ]
    .into_iter()
    .map(|(name, price, points, note)| PlanCard {
        name: name.into(),
        value: name.to_lowercase(),
        price: price.into(),
        points: points.into_iter().map(Into::into).collect(),
        note: note.into(),
        current: current == Some(name),
    })
    .collect()
}

fn landing_page() -> String {
    landing::LandingPage { shell: Shell::gate("Start", "Skylark Weather"), plans: plans(None) }.render().expect("renders")
}

fn sign_up_page() -> String {
    let mut email = Field::of("dev@northbank.example");
    email.wrong("There is an account with this e-mail. Sign in instead.");
    sign_up::SignUpPage {
        shell: Shell::gate("Sign up", "Skylark Weather"),
        problem: None,
        plans: plans(None),
        chosen: "growth".into(),
        name: Field::of("Robin Vale"),
        company: Field::of("Northbank Logistics"),
        email,
        password: Field::default(),
    }
    .render()
    .expect("renders")
}

fn sign_in_page() -> String {
    sign_in::SignInPage {
        shell: Shell::gate("Sign in", "Skylark Weather"),
        action: "/sign-in",
        to: "to your account".into(),
        email: Field::of("dev@northbank.example"),
        problem: Some(Note::new(Tone::Bad, "That did not work.", "The e-mail or the password is wrong.")),
        next: "/usage".into(),
        open: true,
        agreement: None,
    }
    .render()
    .expect("renders")
}

fn start_page() -> String {
    start::StartPage {
        shell: portal("Get started", "/start"),
        plan: Some("Growth".into()),
        plan_note: "Growth, $49 a month. The first 14 days are free.".into(),
        plan_state: StepState::Done,
        needs_payment: true,
        payment_state: StepState::Done,
        payment_note: "Visa ending 4242.".into(),
        key_state: StepState::Done,
        key_note: "Production, sky_live_8Qz…41Kd.".into(),
        call_state: StepState::Now,
        command: Code::new("Call the API", "curl http://localhost:10000/orders \\\n  -H 'x-api-key: YOUR_KEY'"),
        waiting: start::WaitingPart { seen: None, waiting: true },
        allowance_figure: "0".into(),
        allowance_unit: "of 100,000 requests".into(),
        meter: Some(Meter {
            label: "Allowance used".into(),
            now: "0".into(),
            max: "100000".into(),
            text: "0 of 100,000 requests used".into(),
            used: "v0".into(),
            cap: None,
            forecast: None,
            thin: false,
            ruler: vec![RulerMark { at: "v0".into(), text: "0".into() }, RulerMark { at: "v100".into(), text: "100,000".into() }],
        }),
    }
    .render()
    .expect("renders")
}

pub fn running(cap: bool) -> Chart {
    let mut total = (0_i64, 0_i64);
    let rows = (1..=30_i64)
        .map(|day| {
            let (this, last) =
                (20_000 + (day * 7919) % 6000 - (day % 7 / 6) * 8000, 19_500 + (day * 104_729) % 5000 - (day % 7 / 6) * 7000);
            total.1 += last;
            if day <= 18 {
                total.0 += if day == 18 { this / 2 } else { this };
            }
            ChartRow {
                label: format!("{day} Nov"),
                now: day == 18,
                cells: vec![if day <= 18 { format::count(total.0) } else { String::new() }, format::count(total.1)],
            }
        })
        .collect();
    Chart {
        caption: "Billable calls since the first of the month. 18 Nov is in progress.".into(),
        columns: vec![ChartColumn::new("This month", 1), ChartColumn::new("Last month", 6)],
        rows,
        csv: Some("/usage.csv?by=day".into()),
        cap: cap.then(|| "500000".into()),
        tall: true,
        ..Chart::new(
            "running",
            ChartKind::Cumulative,
            "Calls this month, running total",
            format!("{} so far, 4.8 % ahead of October at this point.", format::count(total.0)),
        )
    }
}

pub fn routes() -> Chart {
    let data = [
        ("GET /v2/forecast/hourly", 198_412),
        ("GET /v2/forecast/daily", 92_377),
        ("GET /v2/alerts", 41_806),
        ("GET /v2/geocode", 24_518),
        ("GET /v2/tiles", 9_091),
    ];
    let all: i64 = data.iter().map(|d| d.1).sum();
    Chart {
        first: "Route",
        caption: "Billable calls by route, 1 to 18 Nov".into(),
        columns: vec![ChartColumn::new("Calls", 1), ChartColumn::new("Share", 0)],
        rows: data
            .iter()
            .map(|(route, n)| ChartRow {
                label: (*route).into(),
                now: false,
                cells: vec![format::count(*n), format::percent(&BigDecimal::from(*n), &BigDecimal::from(all)).unwrap_or_default()],
            })
            .collect(),
        total: vec![format::count(all), "100 %".into()],
        csv: Some("/usage.csv?by=route".into()),
        ..Chart::new("routes", ChartKind::Bars, "By route", format!("Five routes, {} billable calls.", format::count(all)))
    }
}

fn statuses() -> Chart {
    Chart {
        caption: "Requests that did not succeed, by day".into(),
        columns: vec![
            ChartColumn::new("400 bad request", 2),
            ChartColumn::new("404 not found", 4),
            ChartColumn::new("429 too fast", 3),
            ChartColumn::new("5xx our fault", 5),
        ],
        rows: (1..=18_i64)
            .map(|d| ChartRow {
                label: format!("{d} Nov"),
                now: d == 18,
                cells: vec![format::count(60 + d * 37 % 50), format::count(50 + d * 23 % 40), format::count(d % 4), format::count(d % 3)],
            })
            .collect(),
        csv: Some("/usage.csv?by=status".into()),
        ..Chart::new(
            "statuses",
            ChartKind::Stacked,
            "By status: what did not succeed",
            "362,885 of 366,307 requests succeeded (99.1 %). Refusals and our failures, 103 in all, never count.",
        )
    }
}

fn usage_page() -> String {
    let call = |time: &str, request: &str, status: Badge, took: &str, counts: &str, why: (&str, &str)| usage::Call {
        time: time.into(),
        request: request.into(),
        status,
        took: took.into(),
        key: "Production".into(),
        counts: counts.into(),
        why_title: why.0.into(),
        why: why.1.into(),
    };
    let ok = || Badge::plain("200");
    usage::UsagePage {
        shell: portal("Usage", "/usage"),
        subtitle: "November 2026, all keys. Updated 14:20 UTC, 4 seconds behind.".into(),
        ranges: vec![usage::RangeChoice { value: "month".into(), label: "This billing month".into(), selected: true }, usage::RangeChoice { value: "last".into(), label: "Last billing month".into(), selected: false }],
        from: "2026-11-01".into(),
        to: "2026-11-30".into(),
        allowance: usage::Allowance {
            heading: "Used of your allowance".into(),
            figure: "366,204".into(),
            unit: "of 500,000 requests".into(),
            facts: Facts::default().with("Left", "133,796 requests (26.8 %)").with("Resets", "1 Dec 2026, 00:00 UTC, in 12 days"),
            meter: Some(Meter { label: "Used of your allowance".into(), now: "366204".into(), max: "500000".into(), text: "366,204 of 500,000 requests used".into(), used: "v54_5".into(), cap: Some("v74".into()), forecast: Some(("v88_5".into(), "v95".into())), thin: false, ruler: vec![RulerMark { at: "v0".into(), text: "0".into() }, RulerMark { at: "v37".into(), text: "250,000".into() }, RulerMark { at: "v74".into(), text: "500,000".into() }, RulerMark { at: "v92".into(), text: "forecast".into() }] }),
            note: Some(Note::new(Tone::Warn, "You will probably pass your allowance on 24 or 25 November.", "Calls keep working. The extra 98,000 to 141,000 requests would cost $39.20 to $52.30.").with("See prices", "/plan")),
        },
        running: running(true),
        routes: routes(),
        statuses: statuses(),
        tail: usage::TailPart {
            calls: vec![
                call("14:20:07.412", "GET /v2/forecast/hourly", ok(), "41 ms", "1 request", ("", "")),
                call("14:20:07.398", "GET /v2/forecast/hourly", Badge::new(Tone::Warn, "429 too fast"), "2 ms", "Not counted", ("Why 429, and what to do", "Your key sent more requests in this second than your plan takes. Refused requests are not billed. Wait for the time in Retry-After, then try again.")),
                call("14:20:06.951", "GET /v2/geocode", ok(), "28 ms", "1 request", ("", "")),
            ],
            live: true,
            zone: "UTC".into(),
            query: "range=month".into(),
        },
    }
    .render()
    .expect("renders")
}

pub fn key_columns() -> Vec<Column> {
    vec![
        Column::text("Name"),
        Column::text("Key"),
        Column::text("Last used"),
        Column::text("Made"),
        Column::text("Status"),
        Column::actions(),
    ]
}

fn keys_page() -> String {
    let row = |name: &str, hint: &str, badge: Badge| {
        vec![
            Cell::text(name).sub("Robin Vale"),
            Cell::mono(hint),
            Cell::text("4 seconds ago"),
            Cell::text("3 Mar 2026"),
            badge.into(),
            Cell::button("Revoke", name, "/keys/cred_1/revoke"),
        ]
    };
    keys::KeysPage {
        shell: Shell {
            toast: Some(Note::new(Tone::Plain, "Staging was revoked.", "It is refused from now on.")),
            ..portal("Keys", "/keys")
        },
        live: 3,
        revoked: 1,
        showing_revoked: false,
        table: Table::new("Active keys", key_columns()).rows([
            row("Production", "sky_live_8Qz…41Kd", Badge::plain("Active")),
            row("Warehouse jobs", "sky_live_Tn2…9vXe", Badge::plain("Active")),
            row("Dashboards", "sky_live_c0M…Zq7a", Badge::new(Tone::Warn, "Expires in 14 days")),
        ]),
        may_change: true,
    }
    .render()
    .expect("renders")
}

fn keys_empty() -> String {
    keys::KeysPage {
        shell: portal("Keys", "/keys"),
        live: 0,
        revoked: 0,
        showing_revoked: false,
        table: Table::default(),
        may_change: true,
    }
    .render()
    .expect("renders")
}

fn key_new() -> String {
    keys::NewKeyPage { shell: portal("Create a key", "/keys"), name: Field::default(), problem: None }.render().expect("renders")
}

fn key_made() -> String {
    keys::KeyMadePage {
        shell: portal("Your new key", "/keys"),
        key: Code::secret("New key", "sky_live_P7hQm2Vt9KxLw4RzNcB8yDfG3sJe6Ua1"),
        facts: Facts::default().with("Name", "Billing worker").with("Works from", "now"),
        command: Code::new("Try it", "curl http://localhost:10000/orders -H 'x-api-key: sky_live_P7hQm2Vt9KxLw4RzNcB8yDfG3sJe6Ua1'"),
    }
    .render()
    .expect("renders")
}

fn key_revoke() -> String {
    keys::RevokeKeyPage {
        shell: portal("Revoke a key", "/keys"),
        id: "cred_1".into(),
        name: "Production".into(),
        facts: Facts::default().cell("Key", Cell::mono("sky_live_8Qz…41Kd")).with("Last used", "4 seconds ago"),
        warning: Some(Note::new(Tone::Warn, "This key was used in the last hour.", "Make sure nothing needs it any more.")),
    }
    .render()
    .expect("renders")
}

fn invoices_page() -> String {
    invoices::InvoicesPage {
        shell: portal("Invoices", "/invoices"),
        next: Some(invoices::Next {
            title: "November 2026".into(),
            amount: "$155.48".into(),
            note: "Before tax. It is issued after 1 Dec 2026, when all usage has arrived.".into(),
            lines: lines().into_iter().take(2).collect(),
        }),
        table: Table::new(
            "Invoices",
            vec![Column::text("Invoice"), Column::text("Period"), Column::text("Issued"), Column::text("State"), Column::number("Total")],
        )
        .rows([
            vec![
                Cell::link("SKY-0147", "/invoices/1"),
                Cell::text("October 2026"),
                Cell::text("2 Nov 2026"),
                Badge::plain("Paid").into(),
                Cell::text("$227.85"),
            ],
            vec![
                Cell::link("SKY-0121", "/invoices/1"),
                Cell::text("September 2026"),
                Cell::text("2 Oct 2026"),
                Badge::new(Tone::Bad, "Payment failed").into(),
                Cell::text("$188.02"),
            ],
        ]),
        csv: "/invoices.csv".into(),
    }
    .render()
    .expect("renders")
}

fn lines() -> Vec<invoices::Line> {
    vec![
        invoices::Line { name: "Growth plan".into(), amount: "$149.00".into(), explanation: "1 to 30 November 2026, in advance. Includes 500,000 requests.".into(), proof: None },
        invoices::Line {
            name: "Requests".into(),
            amount: "$43.74".into(),
            explanation: "612,480 requests. The first 500,000 are in your plan; the next 100,000 cost $0.40 per 1,000, which is $40.00; the last 12,480 cost $0.30 per 1,000, which is $3.744, rounded to $3.74.".into(),
            proof: Some(invoices::Proof {
                title: "How 612,480 requests came about".into(),
                days: None,
                facts: Facts::default().with("Events", "612,563 = 612,480 billed + 83 not billable").cell("Hash over their ids", Cell::mono("sha256:9f2c41d07be85a36c1e0f47da2936b58e7d40cc1528fa96be03d71f58c24ab90")).with("Sealed", "1 Nov 2026, 18:04 UTC, rules version 12"),
                query: Code::new("the query that counts them", "SELECT count() FROM events FINAL\nWHERE workspace = 'ws_1' AND subscription = 'sub_1'\n  AND time >= '2026-10-01' AND time < '2026-11-01' AND counted"),
            }),
        },
        invoices::Line { name: "Credit: incident of 14 October".into(), amount: "−$7.45".into(), explanation: "42 minutes under the promised 99.9 %. 5 % of your plan, by the service terms.".into(), proof: None },
    ]
}

pub fn invoice_view() -> invoices::InvoiceView {
    invoices::InvoiceView {
        lines: lines(),
        verify: Some(Code::new("verify command", "farebox audit invoice inv_0198f2d0c0de7000800000000000beef")),
        sealed: Facts::default().with("Sealed", "1 Nov 2026, 18:04 UTC"),
        total: "$227.85".into(),
        state: Badge::new(Tone::Ok, "Paid 3 Nov 2026"),
        totals: vec![("Subtotal".into(), "$189.87".into()), ("VAT 20 %".into(), "$37.98".into())],
        sum: ("Total".into(), "$227.85".into()),
        after: vec![("Paid".into(), "$227.85".into()), ("Still due".into(), "$0.00".into())],
        payment: Facts::default().with("Issued", "2 Nov, 09:22 UTC").with("Charged", "3 Nov, 08:02 UTC").with("Was due", "16 Nov 2026"),
        parties: Facts::default()
            .cell("From", Cell::text("Skylark Weather Ltd").sub("VAT GB 284 1190 07"))
            .cell("To", Cell::text("Northbank Logistics Ltd").sub("dev@northbank.example")),
        pay: None,
    }
}

fn invoice_page() -> String {
    invoices::InvoicePage {
        shell: portal("Invoice SKY-2026-10-0147", "/invoices"),
        title: "Invoice SKY-2026-10-0147".into(),
        subtitle: "Usage in October 2026, Growth plan in November 2026".into(),
        csv: Some("/x".into()),
        pdf: Some("/x".into()),
        note: None,
        invoice: invoice_view(),
    }
    .render()
    .expect("renders")
}

fn plan_page() -> String {
    plan::PlanPage {
        shell: portal("Plan", "/plan"),
        current: Some(plan::CurrentPlan {
            name: "Growth".into(),
            price: "$49 a month".into(),
            facts: Facts::default().with("Since", "15 Aug 2026").with("Renews", "1 Dec 2026, 00:00 UTC").with("Version", "1"),
            prices: Table::new("Prices", vec![Column::text("Price"), Column::text("How it is charged")]).dense().rows([
                vec![Cell::text("Platform"), Cell::text("$49 a month, in advance")],
                vec![Cell::text("Requests"), Cell::text("100,000 included, then $0.0004 each up to 1,000,000, then $0.0002 each")],
            ]),
        }),
        plans: plans(Some("Growth")),
        may_change: true,
        note: None,
    }
    .render()
    .expect("renders")
}

fn plan_change() -> String {
    plan::PlanChangePage {
        shell: portal("Change to Scale", "/plan"),
        plan: plans(None).remove(2),
        heading: "Change to Scale".into(),
        effect: vec![
            "Scale is in force from today, 14:20 UTC.".into(),
            "The rest of this month of Growth is credited: 12 of 30 days, $19.60.".into(),
            "Scale for the same days costs $199.60.".into(),
        ],
        facts: Facts::default().with("On your next invoice", "$180.00 more"),
        warning: None,
    }
    .render()
    .expect("renders")
}

fn payment_page() -> String {
    payment::PaymentPage { shell: portal("Payment", "/plan"), method: None, note: None, may_change: true, available: true }
        .render()
        .expect("renders")
}

fn account_page() -> String {
    account::AccountPage {
        shell: portal("Account", ""),
        base: "",
        email: "robin@northbank.example".into(),
        person: Facts::default().with("Name", "Robin Vale").with("E-mail", "robin@northbank.example").with("Role", "Administrator"),
        organisation: Some(
            Facts::default()
                .with("Name", "Northbank Logistics")
                .with("Since", "3 Mar 2026")
                .cell("Payment", Cell::link("Visa ending 4242", "/payment")),
        ),
        people: None,
        sessions: Table::new("Sessions", vec![Column::text("Since"), Column::text("Last seen")])
            .rows([vec![Cell::text("Today, 09:12 UTC").sub("this one"), Cell::text("just now")]]),
        password: Field::default(),
        problem: None,
    }
    .render()
    .expect("renders")
}

fn rules_page() -> String {
    let rule = |counts, title: &str, text: &str| rules::Rule { counts, title: title.into(), text: text.into() };
    rules::RulesPage {
        shell: portal("What counts", ""),
        rules: vec![
            rule(true, "An answer from the API", "Every request that reached the API and got an answer below 500."),
            rule(false, "Refused at the gateway", "401, 402, 403 and 429 from the gateway."),
            rule(false, "Our failure", "Status 500 and above."),
        ],
        facts: Facts::default().with("Version", "1"),
    }
    .render()
    .expect("renders")
}

fn message() -> String {
    MessagePage {
        shell: Shell::gate("Not found", "Skylark Weather"),
        title: "There is no such page".into(),
        text: "The address may be mistyped, or what it showed may be gone.".into(),
        actions: vec![Action::new("To the start", "/")],
    }
    .render()
    .expect("renders")
}
