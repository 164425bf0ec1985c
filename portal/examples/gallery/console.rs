use askama::Template;
use farebox_core::money::BigDecimal;
use farebox_portal::format;
use farebox_portal::pages::console::{close, consumers, invoices, kpis, overview, pipeline, settings};
use farebox_portal::pages::portal::sign_in;
use farebox_portal::view::{
    Action, Badge, Cell, Chart, ChartColumn, ChartKind, ChartRow, Code, Column, Direction, Equation, Facts, Field, Happening, Icon, Shell,
    Stat, Stats, StepState, Table, Term, Tone,
};

use super::{Render, developer, in_console};

pub fn pages() -> Vec<(&'static str, Render)> {
    vec![
        ("c-welcome", welcome),
        ("c-overview", overview_page),
        ("c-activation", activation),
        ("c-retention", retention),
        ("c-conversion", conversion),
        ("c-consumers", consumers_page),
        ("c-consumer", consumer),
        ("c-invoices", invoices_page),
        ("c-invoice", invoice),
        ("c-pipeline", pipeline_page),
        ("c-close", close_page),
        ("c-close-confirm", close_confirm),
        ("c-settings", settings_page),
        ("c-once", once),
    ]
}

fn welcome() -> String {
    sign_in::WelcomePage {
        shell: Shell::gate("Welcome", "Skylark Weather"),
        action: "/console/welcome/x".into(),
        name: "Ada Marsh".into(),
        email: "ada@skylark.example".into(),
        has_password: false,
        until: "18 Nov 2026, 15:20 UTC".into(),
        password: Field::default(),
        agreement: None,
    }
    .render()
    .expect("renders")
}

fn equation() -> Equation {
    Equation {
        terms: vec![
            Term::new("", "Requests received", "12,482,113", "4 sources, after 41,006 duplicates"),
            Term::new("=", "Stored", "12,482,113", "in ClickHouse, deduplicated"),
            Term::new("=", "Counted", "12,480,990", "billable, by rule 1"),
            Term::new("+", "Not billable", "1,123", "611 refused, 498 our failure, 14 internal"),
        ],
        difference: Some(Term::new("", "Difference", "0", "")),
    }
}

fn funnel() -> Table {
    let rows: [(&str, i64); 5] = [("Signed up", 132), ("Made a key", 118), ("First call", 97), ("Activated", 81), ("Paid an invoice", 23)];
    Table::new(
        "Activation steps",
        vec![Column::text("Step"), Column::number("Consumers"), Column::number("Of all"), Column::number("Median time")],
    )
    .rows(rows.map(|(step, n)| {
        let (part, whole) = (BigDecimal::from(n), BigDecimal::from(132));
        vec![
            Cell::text(step).share(format::share_class(&part, &whole)),
            Cell::text(format::count(n)),
            Cell::text(format::percent_whole(&part, &whole).unwrap_or_default()),
            Cell::text("2 h"),
        ]
    }))
}

fn stages() -> Table {
    Table::new("Pipeline stages", vec![Column::text("Stage"), Column::number("Lag"), Column::number("Waiting"), Column::text("State")])
        .dense()
        .rows([
            vec![Cell::text("Gateways"), Cell::text("0.3 s"), Cell::text("0"), Badge::plain("4 of 4").into()],
            vec![Cell::text("Collector"), Cell::text("1 s"), Cell::text("214"), Badge::plain("Normal").into()],
            vec![Cell::text("Counter"), Cell::text("41 s"), Cell::text("26,410"), Badge::new(Tone::Warn, "Slow").into()],
            vec![Cell::text("Stripe"), Cell::text("2 min"), Cell::text("0"), Badge::plain("Normal").into()],
        ])
}

fn traffic() -> Chart {
    let mut then = ChartColumn::new("October, same day", 6);
    then.tick = true;
    Chart {
        caption: "Requests by day".into(),
        columns: vec![ChartColumn::new("November", 1), then],
        rows: (1..=18_i64)
            .map(|d| ChartRow {
                label: d.to_string(),
                now: d == 18,
                cells: vec![format::count(320_000 + d * 7919 % 150_000), format::count(310_000 + d * 104_729 % 140_000)],
            })
            .collect(),
        csv: Some("/x".into()),
        ..Chart::new("traffic", ChartKind::Stacked, "Traffic", "Requests per day. Today is still running.")
    }
}

fn overview_page() -> String {
    overview::OverviewPage {
        shell: in_console("Overview", "/console"),
        now: "Wednesday 18 November 2026, 14:20 UTC".into(),
        months: vec![("2026-11".into(), "November 2026".into(), true), ("2026-10".into(), "October 2026".into(), false)],
        stats: Stats {
            stats: vec![
                Stat::new("Requests", "7,412,306", "on October").change("+5.4 %", Direction::Better),
                Stat::new("MRR", "$48,210", "221 subscriptions").change("+$1,270", Direction::Better),
                Stat::new("Usage revenue", "$25,911.20", "so far, before tax"),
                Stat::new("Activation", "61 %", "81 of 132 new consumers").change("−3 points", Direction::Worse),
            ],
        },
        needs: vec![
            overview::Need {
                icon: Icon::CircleAlert,
                class: "bad",
                title: "3 invoices could not be collected,".into(),
                text: "$1,906.20 together. Stripe will try the cards again.".into(),
                action: Action::new("Open", "/console/invoices"),
            },
            overview::Need {
                icon: Icon::TriangleAlert,
                class: "warn",
                title: "412 events are in the dead letters.".into(),
                text: "Most of them for one reason: an unknown field.".into(),
                action: Action::new("Open", "/console/pipeline#dead"),
            },
        ],
        agreement: overview::Agreement {
            title: "Does it add up? November 2026".into(),
            verdict: Badge::new(Tone::Ok, "Agrees to the last request"),
            equation: equation(),
            note: String::new(),
        },
        traffic: traffic(),
        revenue: Chart {
            first: "Month",
            unit: "$".into(),
            caption: "Revenue by month before tax".into(),
            columns: vec![ChartColumn::new("Subscriptions", 1), ChartColumn::new("Usage", 2)],
            rows: [("Sep", 45_230, 38_760), ("Oct", 46_940, 41_903), ("Nov", 48_210, 25_911)]
                .map(|(m, a, b)| ChartRow {
                    label: m.into(),
                    now: m == "Nov",
                    cells: vec![format!("${}", format::count(a)), format!("${}", format::count(b))],
                })
                .into(),
            ..Chart::new("revenue", ChartKind::Stacked, "Revenue", "Subscriptions and usage. November is still running.")
        },
        stages: stages(),
        stages_note: "The counter is slow since 13:55. Nothing is lost; numbers lag by up to a minute.".into(),
        funnel: funnel(),
        funnel_note: "Consumers who signed up 12 October to 11 November; each had 7 days.".into(),
        top: Table::new(
            "Top consumers",
            vec![
                Column::text("Consumer"),
                Column::text("Plan"),
                Column::number("Requests"),
                Column::number("Of all"),
                Column::number("On October"),
            ],
        )
        .rows([
            vec![
                Cell::link("Halden Energy", "/c"),
                Cell::text("Scale"),
                Cell::text("1,204,118"),
                Cell::text("16.2 %"),
                Cell { class: "up", ..Cell::text("+22 %") },
            ],
            vec![
                Cell::link("Marlow & Pike", "/c"),
                Cell::text("Scale"),
                Cell::text("801,770"),
                Cell::text("10.8 %"),
                Cell { class: "down", ..Cell::text("−3 %") },
            ],
        ]),
    }
    .render()
    .expect("renders")
}

fn definition(name: &str, text: &str, formula: &str) -> kpis::Definition {
    kpis::Definition {
        name: name.into(),
        text: text.into(),
        version: "1".into(),
        formula: formula.into(),
        zone: "UTC".into(),
        complete: "Complete to Sunday 15 Nov, 24:00".into(),
        unfinished: "not finished".into(),
    }
}

fn filters() -> Vec<kpis::Filter> {
    let choice = |v: &str, l: &str, s| kpis::Choice { value: v.into(), label: l.into(), selected: s };
    vec![
        kpis::Filter {
            name: "interval",
            label: "Cohorts by",
            choices: vec![choice("week", "Week", true), choice("month", "Month", false)],
        },
        kpis::Filter {
            name: "mode",
            label: "Counting",
            choices: vec![choice("n_day", "In that week", true), choice("unbounded", "In that week or later", false)],
        },
    ]
}

fn activation() -> String {
    kpis::KpiPage {
        shell: in_console("Activation", "/console/activation"),
        title: "Activation".into(),
        subtitle: "From sign-up to the first paid invoice.".into(),
        csv: "/x".into(),
        definition: definition(
            "Activated",
            "means a first qualifying call within 7 days of signing up.",
            "activated / signed up, of consumers whose 7 days are over",
        ),
        filters: filters(),
        stats: Some(Stats {
            stats: vec![Stat::new("Activation rate", "61 %", "81 of 132"), Stat::new("Time to first call", "2 h", "median; p90 3 days")],
        }),
        funnel: Some(("Funnel".into(), funnel())),
        chart: Some(Chart {
            first: "Week",
            columns: vec![ChartColumn::new("Activated, %", 1)],
            rows: (1..=10_i64)
                .map(|w| ChartRow { label: format!("week {w}"), now: w == 10, cells: vec![format::count(50 + w * 7 % 20)] })
                .collect(),
            ..Chart::new("rate", ChartKind::Stacked, "Activation rate by sign-up week", "The last week is not finished.")
        }),
        cohorts: Some((
            "By cohort".into(),
            Table::new(
                "Cohorts",
                vec![Column::text("Signed up"), Column::number("Size"), Column::number("Activated"), Column::number("Rate")],
            )
            .dense()
            .rows([
                vec![Cell::text("26 Oct"), Cell::text("58"), Cell::text("32"), Cell::text("55 %")],
                vec![Cell::text("2 Nov"), Cell::text("50"), Cell::text("30"), Cell::text("60 %").sub("so far")],
            ]),
        )),
    }
    .render()
    .expect("renders")
}

fn conversion() -> String {
    kpis::KpiPage {
        shell: in_console("Conversion", "/console/conversion"),
        title: "Conversion".into(),
        subtitle: "From free to paid.".into(),
        csv: "/x".into(),
        definition: definition("Converted", "means a first paid invoice within 30 days of signing up.", "paid / signed up"),
        filters: filters(),
        stats: None,
        funnel: None,
        chart: None,
        cohorts: Some(("By cohort".into(), Table::new("Cohorts", vec![]))),
    }
    .render()
    .expect("renders")
}

fn retention() -> String {
    let sizes = [41_i64, 36, 48, 39, 52, 44, 47, 58, 50, 46];
    let shares = [100_i64, 80, 71, 66, 61, 60, 59, 58, 56, 59];
    let rows = sizes
        .iter()
        .enumerate()
        .map(|(i, size)| {
            let age = 10 - i;
            let cells = (0..10)
                .map(|n| {
                    if n >= age {
                        return None;
                    }
                    let wobble = i64::try_from((i * 3 + n) % 5).unwrap_or_default();
                    let part = size * (shares[n] - wobble) / 100;
                    let part = if n == 0 { *size } else { part };
                    let (p, w) = (BigDecimal::from(part), BigDecimal::from(*size));
                    Some(kpis::HeatCell {
                        heat: format::share_class(&p, &w),
                        text: format::percent_whole(&p, &w).unwrap_or_default().replace("\u{a0}%", ""),
                        title: format!("{part} of {size}"),
                        href: "#d".into(),
                        complete: n + 1 < age || i == 0,
                        chosen: i == 3 && n == 5,
                    })
                })
                .collect();
            kpis::CohortRow {
                label: ["7 Sep", "14 Sep", "21 Sep", "28 Sep", "5 Oct", "12 Oct", "19 Oct", "26 Oct", "2 Nov", "9 Nov"][i].into(),
                size: size.to_string(),
                cells,
            }
        })
        .collect();
    kpis::RetentionPage {
        shell: in_console("Retention", "/console/retention"),
        subtitle: "Consumers by the week of their first call.".into(),
        csv: "/x".into(),
        definition: definition(
            "Retained in week n",
            "means at least one qualifying call in the n-th week (Monday to Sunday) after the week of the first one.",
            "|active in i and in i+n| / |active in i|",
        ),
        filters: filters(),
        unit: "week".into(),
        first: "First call".into(),
        columns: (0..10).map(|n| n.to_string()).collect(),
        rows,
        mean: shares.map(|s| s.to_string()).into(),
        mean_size: "461".into(),
        drill: Some(kpis::Drill {
            title: "Cohort of 28 Sep, week 5".into(),
            subtitle: "2 to 8 November, complete".into(),
            figure: "22".into(),
            unit: "of 39 retained, 56 %".into(),
            note: "Mean of all cohorts in week 5: 60 %.".into(),
            table: Table::new("Not active in week 5", vec![Column::text("Consumer"), Column::number("Last call")])
                .dense()
                .with_caption()
                .rows([
                    vec![Cell::link("Brightwell Farms", "/c"), Cell::text("31 Oct")],
                    vec![Cell::link("Calder Tours", "/c"), Cell::text("30 Oct")],
                ]),
            close: "/console/retention".into(),
        }),
    }
    .render()
    .expect("renders")
}

fn consumers_page() -> String {
    let row = |name: &str, plan: &str, n: i64, badge: Badge| {
        vec![
            Cell::link(name, "/console/consumers/con_1").sub(format!("dev@{}.example", name.to_lowercase().replace(' ', ""))),
            Cell::text(plan),
            Cell::text("15 Aug 2026"),
            Cell::text(format::count(n)),
            Cell::text("4 seconds ago"),
            badge.into(),
        ]
    };
    consumers::ConsumersPage {
        shell: in_console("Consumers", "/console/consumers"),
        subtitle: "204 consumers, 163 called this month.".into(),
        search: String::new(),
        table: Table::new(
            "Consumers",
            vec![
                Column::text("Consumer"),
                Column::text("Plan"),
                Column::text("Since"),
                Column::number("Requests this month"),
                Column::text("Last call"),
                Column::text("State"),
            ],
        )
        .rows([
            row("Halden Energy", "Scale", 1_204_118, Badge::plain("Active")),
            row("Kestrel Agri", "Growth", 441_902, Badge::new(Tone::Bad, "Payment failed")),
            row("Fjell Outdoor", "Sandbox", 12, Badge::plain("Quiet for 14 days")),
        ]),
        next: Some("/x".into()),
        csv: "/x".into(),
    }
    .render()
    .expect("renders")
}

fn consumer() -> String {
    consumers::ConsumerPage {
        shell: in_console("Northbank Logistics", "/console/consumers"),
        name: "Northbank Logistics".into(),
        subtitle: "con_0198f2d0c0de7000800000000000beef".into(),
        badges: vec![Badge::plain("Active"), Badge::plain("Activated after 2 hours")],
        note: None,
        facts: Facts::default()
            .with("E-mail", "dev@northbank.example")
            .with("Signed up", "3 Mar 2026, 09:12 UTC")
            .with("First key", "after 4 minutes")
            .with("First call", "after 2 hours")
            .with("Last call", "4 seconds ago"),
        subscription: Facts::default()
            .with("Plan", "Growth, version 1")
            .with("Since", "15 Aug 2026")
            .with("This period", "November 2026")
            .with("Next invoice", "$155.48 so far"),
        usage: Chart { ..developer::running(false) },
        routes: developer::routes(),
        keys: Table::new("Keys", developer::key_columns()).dense().rows([vec![
            Cell::text("Production"),
            Cell::mono("sky_live_8Qz…41Kd"),
            Cell::text("4 seconds ago"),
            Cell::text("3 Mar 2026"),
            Badge::plain("Active").into(),
            Cell::text(""),
        ]]),
        invoices: Table::new(
            "Invoices",
            vec![Column::text("Invoice"), Column::text("Period"), Column::text("State"), Column::number("Total")],
        )
        .rows([vec![Cell::link("SKY-0147", "/x"), Cell::text("October 2026"), Badge::plain("Paid").into(), Cell::text("$227.85")]]),
        people: Table::new("People", vec![Column::text("Name"), Column::text("Role"), Column::text("Last sign-in")]).dense().rows([vec![
            Cell::text("Robin Vale").sub("robin@northbank.example"),
            Cell::text("Administrator"),
            Cell::text("2 hours ago"),
        ]]),
        story: vec![
            Happening { when: "3 Mar 2026, 09:12 UTC".into(), what: Cell::text("Signed up") },
            Happening { when: "3 Mar 2026, 11:20 UTC".into(), what: Cell::text("First call: GET /v2/forecast/hourly, 200") },
        ],
        link_action: "/x".into(),
    }
    .render()
    .expect("renders")
}

fn invoices_page() -> String {
    invoices::InvoicesPage {
        shell: in_console("Invoices", "/console/invoices"),
        subtitle: "All invoices, newest first.".into(),
        tabs: vec![
            ("?".into(), "All".into(), "417".into(), true),
            ("?state=open".into(), "Open".into(), "9".into(), false),
            ("?state=failed".into(), "Failed".into(), "3".into(), false),
        ],
        stats: Stats {
            stats: vec![
                Stat::new("Issued in October", "$92,418.06", "214 invoices, before tax"),
                Stat::new("Paid", "$88,297.66", "205 invoices"),
                Stat::new("Open", "$4,120.40", "9 invoices"),
            ],
        },
        table: Table::new(
            "Invoices",
            vec![
                Column::text("Invoice"),
                Column::text("Consumer"),
                Column::text("Period"),
                Column::text("Stripe"),
                Column::text("State"),
                Column::number("Total"),
            ],
        )
        .rows([vec![
            Cell::link("SKY-0147", "/x"),
            Cell::link("Northbank Logistics", "/x"),
            Cell::text("October 2026"),
            Cell::text("Agrees"),
            Badge::plain("Paid").into(),
            Cell::text("$227.85"),
        ]]),
        next: None,
        csv: "/x".into(),
    }
    .render()
    .expect("renders")
}

fn invoice() -> String {
    invoices::InvoicePage {
        shell: in_console("Invoice SKY-0147", "/console/invoices"),
        title: "Invoice SKY-0147".into(),
        subtitle: "Northbank Logistics, October 2026".into(),
        note: None,
        csv: None,
        pdf: None,
        invoice: developer::invoice_view(),
        stripe: Facts::default()
            .cell("Invoice", Cell::mono("in_1Nabc"))
            .with("Total there", "$227.85, the same as ours")
            .with("State", "paid"),
        stripe_events: Table::default(),
        audit: Some(invoices::Audit {
            verdict: Badge::new(Tone::Ok, "Re-derived from raw events: no difference"),
            when: "Just now, with the sealed attribution.".into(),
            table: Table::new(
                "Audit",
                vec![Column::text("Line"), Column::number("Billed"), Column::number("Re-derived"), Column::number("Difference")],
            )
            .dense()
            .rows([vec![Cell::text("Requests"), Cell::text("612,480"), Cell::text("612,480"), Cell::text("0")]]),
        }),
        audit_action: "/x".into(),
        retry_action: String::new(),
    }
    .render()
    .expect("renders")
}

fn pipeline_page() -> String {
    pipeline::PipelinePage {
        shell: in_console("Pipeline", "/console/pipeline"),
        subtitle: "From the gateways to ClickHouse, now.".into(),
        verdict: Badge::new(Tone::Ok, "Nothing is missing"),
        note: None,
        equation: equation(),
        verdicts: Chart {
            first: "Reason",
            columns: vec![ChartColumn::new("Events", 5)],
            rows: vec![
                ChartRow { label: "invalid JSON".into(), now: false, cells: vec!["311".into()] },
                ChartRow { label: "no time".into(), now: false, cells: vec!["101".into()] },
            ],
            ..Chart::new("verdicts", ChartKind::Bars, "Rejected, by reason", "412 of 12,482,525 events were rejected.")
        },
        stages: stages(),
        sources: Table::new(
            "Sources",
            vec![
                Column::text("Source"),
                Column::text("Format"),
                Column::text("Newest event"),
                Column::number("Today"),
                Column::text("State"),
            ],
        )
        .rows([
            vec![
                Cell::text("edge-eu"),
                Cell::text("envoy"),
                Cell::text("1 second ago"),
                Cell::text("270,400"),
                Badge::plain("Delivering").into(),
            ],
            vec![
                Cell::text("edge-us"),
                Cell::text("apisix"),
                Cell::text("31 minutes ago"),
                Cell::text("12"),
                Badge::new(Tone::Warn, "Silent").into(),
            ],
        ]),
        engines: Table::new("Engines", vec![Column::text("Engine"), Column::text("Answers in"), Column::text("State")]).dense().rows([
            vec![Cell::text("Kafka"), Cell::text("2 ms"), Badge::plain("Ready").into()],
            vec![Cell::text("ClickHouse"), Cell::text("3 ms"), Badge::plain("Ready").into()],
            vec![Cell::text("PostgreSQL"), Cell::text("–"), Badge::new(Tone::Bad, "Not reachable").into()],
        ]),
        complete: Facts::default().with("Complete until", "18 Nov 2026, 14:19 UTC").with("Held back by", "nobody"),
        dead_letters: Table::new(
            "Dead letters",
            vec![Column::text("When"), Column::text("Source"), Column::text("Reason"), Column::text("Detail")],
        )
        .dense()
        .rows([vec![
            Cell::text("14:02:11"),
            Cell::text("edge-eu"),
            Cell::text("invalid_json"),
            Cell::text("expected `,` at column 14"),
        ]]),
        dead_count: "412".into(),
    }
    .render()
    .expect("renders")
}

fn close_page() -> String {
    let step = |state, title: &str, when: &str, text: &str| close::CloseStep {
        state,
        title: title.into(),
        when: when.into(),
        text: text.into(),
        equation: None,
        table: None,
    };
    close::ClosePage {
        shell: in_console("Close October 2026", "/console/close"),
        title: "Close October 2026".into(),
        subtitle: "Wednesday 18 November 2026, 14:20 UTC.".into(),
        months: vec![("2026-10".into(), "October 2026".into(), true)],
        note: None,
        steps: vec![
            step(
                StepState::Done,
                "The month has ended",
                "1 Nov, 00:00 UTC",
                "Later events for October are taken in until the grace time is over.",
            ),
            step(StepState::Done, "Late events taken in", "1 Nov, 01:00 UTC", "412 events, all within the hour allowed."),
            close::CloseStep { equation: Some(equation()), ..step(StepState::Done, "Counts agree", "", "") },
            step(StepState::Now, "Issue invoices", "not started", "214 subscriptions have a period that ended in October."),
            step(StepState::Later, "Collected by Stripe", "after issuing", ""),
        ],
        aside_title: "Ready to issue".into(),
        amount: "$92,418.06".into(),
        amount_note: "214 invoices, before tax".into(),
        totals: vec![
            ("Subscriptions".into(), "$48,210.00".into()),
            ("Usage".into(), "$44,301.46".into()),
            ("Credits".into(), "−$93.40".into()),
        ],
        sum: ("Total".into(), "$92,418.06".into()),
        aside_note: "Issued invoices never change.".into(),
        closable: Some("2026-10".into()),
        button: "Issue 214 invoices…".into(),
    }
    .render()
    .expect("renders")
}

fn close_confirm() -> String {
    close::CloseConfirmPage {
        shell: in_console("Issue", "/console/close"),
        month: "2026-10".into(),
        title: "Issue 214 invoices".into(),
        totals: vec![("Total before tax".into(), "$92,418.06".into()), ("Charged through Stripe".into(), "187, $61,204.31".into())],
        confirm: "2026-10".into(),
        note: None,
    }
    .render()
    .expect("renders")
}

fn settings_page() -> String {
    settings::SettingsPage {
        shell: in_console("Settings", "/console/settings"),
        note: None,
        workspace: Facts::default().with("Workspace", "skylark/live").with("Currency", "USD").with("Time zone", "Europe/London"),
        display_name: Field::of("Skylark Weather"),
        portal_host: Field::default(),
        example_url: Field::default(),
        stripe: settings::StripeSettings {
            state: Badge::plain("Connected"),
            facts: Facts::default().with("Account", "acct_1N…").cell("Key", Cell::mono("sk_live_…41Kd")),
            problem: None,
            webhook: Code::new("webhook address", "http://localhost:8080/stripe/webhooks/skylark/live"),
        },
        sources: Table::new("Sources", vec![Column::text("Name"), Column::text("Format"), Column::text("Token"), Column::actions()]).rows(
            [vec![
                Cell::text("edge-eu"),
                Cell::text("envoy"),
                Cell::mono("fbx_live_8Qz1…41Kd"),
                Cell::button("New token", "for edge-eu", "/x"),
            ]],
        ),
        source_formats: ["envoy", "apisix", "cloudevents"].map(Into::into).into(),
        members: Table::new("People", vec![Column::text("Name"), Column::text("Role"), Column::text("Last sign-in")]).rows([vec![
            Cell::text("Ada Marsh").sub("ada@skylark.example"),
            Cell::text("Owner"),
            Cell::text("just now"),
        ]]),
        roles: vec![("admin", "Admin"), ("finance", "Finance")],
        may_change: true,
        plans: Table::default(),
    }
    .render()
    .expect("renders")
}

fn once() -> String {
    settings::OncePage {
        shell: in_console("Token for edge-eu", "/console/settings"),
        title: "Token for edge-eu. Copy it now.".into(),
        text: "This is the only time it is shown.".into(),
        secret: Code::secret("Token", "fbx_live_P7hQm2Vt9KxLw4RzNcB8yDfG3sJe6Ua1abcdef"),
        facts: Facts::default().with("Sent as", "X-Farebox-Token"),
        more: None,
        back: "/console/settings#sources".into(),
    }
    .render()
    .expect("renders")
}
