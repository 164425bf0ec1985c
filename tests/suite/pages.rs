//! Every page in a real browser, light and dark, at a desk's and a phone's width: usable by everybody (axe-core, WCAG
//! 2.2 AA), nothing wider than the window, and nothing that the content security policy blocks.

use std::fmt::Write;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::clock;
use farebox_engines::artefacts::Artefacts;
use farebox_portal::context::Who;
use farebox_portal::people::session::cookie_name;
use farebox_portal::people::{Role, Side};
use farebox_portal::routes;
use reqwest::Method;
use serde_json::{Value, json};

use crate::access_gap;
use crate::browser::Browser;
use crate::harness::{Suite, eventually};
use crate::walk::World;

const RULES: [&str; 6] = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const WIDTHS: [u32; 2] = [1440, 390];
const THEMES: [&str; 2] = ["light", "dark"];

/// Waits for what is drawn, then asks axe-core in the page.
const CHECK: &str = r"
const [rules, done] = arguments;
const settled = document.fonts.ready.then(() => new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go))));
settled.then(() => axe.run(document, { runOnly: rules, resultTypes: ['violations'], elementRef: false })).then(found => done({
  violations: found.violations.map(v => ({ id: v.id, help: v.help, nodes: v.nodes.slice(0, 3).map(n => n.target.join(' ') + ' | ' + n.failureSummary) })),
  wide: document.documentElement.scrollWidth - innerWidth,
}), error => done({ failed: String(error) }));
";

/// Pages of a side, as its most powerful role sees them.
fn pages(side: Side) -> Vec<&'static str> {
    let is_page = |path: &str| {
        let file = path.ends_with("/body") || Path::new(path).extension().is_some_and(|kind| kind == "csv" || kind == "pdf");
        let part = ["/usage/tail", "/start/seen", "/payment/return"].contains(&path) || path.contains("/welcome/");
        !file && !part
    };
    let table = routes::table();
    table.iter().filter(|r| r.method == Method::GET && r.who.side() == side && is_page(r.path)).map(|r| r.path).collect()
}

/// A month's calls of the consumer, some of which failed.
async fn calls(world: &World) {
    let mut lines = String::new();
    let now = clock::now();
    let stamp = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    for (n, status) in (0..120_i64).zip([200, 200, 200, 404, 429, 500].into_iter().cycle()) {
        let event = json!({
            "specversion": "1.0", "type": "farebox.request.v1", "source": format!("{}-edge", world.mark), "id": format!("call-{n}"),
            "time": stamp(now - TimeDelta::minutes(n * 300 + 1)), "subject": format!("{}-subject", world.mark),
            "data": {
                "api": format!("{}-api", world.mark), "api_version": if n % 3 == 0 { "v1" } else { "v2" }, "method": "GET",
                "route": format!("GET /orders/{}", n % 12), "status": status,
                "latency_us": 1200, "answered_by": "upstream",
            },
        });
        let _ = writeln!(lines, "{event}");
    }
    let sent = world
        .tenant
        .call(Method::POST, "/v1/events")
        .header("content-type", "application/x-ndjson")
        .header("x-farebox-source", format!("{}-edge", world.mark));
    let receipt: Value = sent.body(lines).send().await.expect("an answer").json().await.expect("a receipt");
    assert!(receipt["accepted"].as_u64().is_some_and(|accepted| accepted > 30), "{receipt}");
    eventually("the calls are counted", std::time::Duration::from_secs(20), || async { (world.tenant.calls().await > 0).then_some(()) })
        .await;
}

struct Checker<'a> {
    browser: &'a Browser,
    axe: String,
    wrong: String,
    shots: Option<std::path::PathBuf>,
}

impl Checker<'_> {
    async fn check(&mut self, name: &str, url: &str) {
        self.browser.goto(url).await;
        self.browser.page.execute(&self.axe, Vec::new()).await.expect("axe-core loads");
        for width in WIDTHS {
            for theme in THEMES {
                self.browser.screen(width, theme).await;
                let found = self.browser.page.execute_async(CHECK, vec![json!(RULES)]).await.expect("axe-core runs");
                let place = format!("{name} ({theme}, {width} px)");
                if let Some(error) = found.get("failed") {
                    let _ = writeln!(self.wrong, "{place}: {error}");
                }
                for violation in found["violations"].as_array().into_iter().flatten() {
                    let _ = writeln!(self.wrong, "{place}: {violation:#}");
                }
                if found["wide"].as_i64().unwrap_or_default() > 0 {
                    let _ = writeln!(self.wrong, "{place}: the page is {} px wider than its window", found["wide"]);
                }
                self.shoot(name, width, theme).await;
            }
        }
    }

    /// For people to look at, when FAREBOX_SHOTS names a directory.
    async fn shoot(&self, name: &str, width: u32, theme: &str) {
        let Some(folder) = &self.shots else { return };
        let file = name.trim_matches('/').replace(['/', '{', '}'], "-");
        let png = self.browser.page.screenshot().await.expect("a picture");
        std::fs::write(folder.join(format!("{file}-{width}-{theme}.png")), png).expect("the directory can be written to");
    }
}

pub async fn everybody_can_use_every_page(suite: &Suite) {
    let world = World::new(suite, "looks").await;
    calls(&world).await;
    let hour = clock::now() - TimeDelta::hours(2);
    access_gap::decide(suite, &world.tenant.workspace.id, &format!("{}-edge", world.mark), &world.consumer, &[hour, hour]).await;
    let axe = Artefacts::find(None).and_then(|engines| engines.axe()).unwrap_or_else(|missing| panic!("{missing}, with --browser"));
    let browser = Browser::open(&suite.data.join("browser-pages")).await;
    let shots = std::env::var_os("FAREBOX_SHOTS").map(std::path::PathBuf::from);
    let axe = std::fs::read_to_string(Path::new(&axe)).expect("axe-core");
    let mut checker = Checker { browser: &browser, axe, wrong: String::new(), shots };
    let port = suite.credentials.base_url.rsplit(':').next().expect("a port");
    let base = format!("http://{}:{port}", world.host);

    browser.goto(&format!("{base}/rules")).await;
    for side in [Side::Portal, Side::Console] {
        let open: Vec<_> = routes::table().into_iter().filter(|r| matches!(r.who, Who::Anyone(of) if of == side)).map(|r| r.path).collect();
        let role = if side == Side::Portal { Role::ConsumerAdmin } else { Role::Owner };
        let session = world.sign_in(suite, role, (side == Side::Portal).then_some(&world.consumer)).await;
        for path in pages(side).into_iter().filter(|path| open.contains(path)) {
            checker.check(path, &format!("{base}{path}")).await;
        }
        browser.sign_in(&base, cookie_name(side, false), session.token.reveal()).await;
        for path in pages(side).into_iter().filter(|path| !open.contains(path)) {
            let chosen = match path {
                // With its answer.
                "/console/what-if" => format!("?plan={}-plan", world.mark),
                "/console/pipeline/gap" => format!("?source={}-edge&hour={}", world.mark, hour.format("%Y-%m-%dT%H:%M:%SZ")),
                _ => String::new(),
            };
            checker.check(path, &format!("{base}{}{chosen}", world.fill(path))).await;
        }
    }
    let wrong = checker.wrong;
    browser.close().await;
    assert!(wrong.is_empty(), "{wrong}");
}
