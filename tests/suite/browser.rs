//! A real browser: headless Chromium, driven through chromedriver.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::harness::{eventually, free_port};

/// One browser window with a driver of its own. Call [`Browser::close`] at the end.
pub struct Browser {
    pub page: Client,
    driver: Child,
}

/// How long a page may take to show what it must.
const PATIENCE: Duration = Duration::from_secs(20);

impl Browser {
    pub async fn open(profile: &Path) -> Self {
        let port = free_port().expect("a port");
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver runs (Debian package chromium-driver)");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1440,1000",
            "--host-resolver-rules=MAP *.example 127.0.0.1",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let capabilities = serde_json::json!({ "goog:chromeOptions": { "args": arguments } });
        let capabilities = capabilities.as_object().expect("an object").clone();
        let address = format!("http://127.0.0.1:{port}");
        let page = eventually("chromedriver", PATIENCE, || async {
            ClientBuilder::new(HttpConnector::new()).capabilities(capabilities.clone()).connect(&address).await.ok()
        })
        .await;
        Self { page, driver }
    }

    pub async fn goto(&self, url: &str) {
        self.page.goto(url).await.unwrap_or_else(|e| panic!("{url} does not open: {e}"));
    }

    /// The element, once it is there.
    pub async fn see(&self, css: &str) -> Element {
        match self.page.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await {
            Ok(element) => element,
            Err(error) => panic!("`{css}` is not on {}: {error}\n{}", self.url().await, self.text().await),
        }
    }

    pub async fn click(&self, css: &str) {
        self.see(css).await.click().await.unwrap_or_else(|e| panic!("`{css}` cannot be clicked: {e}"));
    }

    pub async fn write(&self, css: &str, text: &str) {
        let field = self.see(css).await;
        field.clear().await.expect("a field");
        field.send_keys(text).await.unwrap_or_else(|e| panic!("`{css}` takes no text: {e}"));
    }

    /// The visible text of the whole page.
    pub async fn text(&self) -> String {
        match self.page.find(Locator::Css("body")).await {
            Ok(body) => body.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    pub async fn url(&self) -> String {
        self.page.current_url().await.map(|url| url.to_string()).unwrap_or_default()
    }

    /// Waits until the page says `words`, loading `url` again each time.
    pub async fn until_says(&self, url: &str, words: &str, limit: Duration) {
        eventually(&format!("`{words}` on {url}"), limit, || async {
            self.goto(url).await;
            self.text().await.contains(words).then_some(())
        })
        .await;
    }

    /// Signed in at `base` with a session made elsewhere.
    pub async fn sign_in(&self, base: &str, name: &str, token: &str) {
        self.chromium("Network.setCookie", json!({ "name": name, "value": token, "url": base, "path": "/" })).await;
    }

    /// As on a screen of this width, in this colour scheme (`light`, `dark`).
    pub async fn screen(&self, width: u32, scheme: &str) {
        let metrics = json!({ "width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.chromium("Emulation.setDeviceMetricsOverride", metrics).await;
        // Without motion, so that no colour is looked at halfway to another.
        let media = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ] });
        self.chromium("Emulation.setEmulatedMedia", media).await;
    }

    /// What WebDriver has no words for.
    async fn chromium(&self, command: &'static str, parameters: Value) {
        self.page.issue_cmd(Chromium { command, parameters }).await.unwrap_or_else(|e| panic!("{command}: {e}"));
    }

    pub async fn close(mut self) {
        let _ = self.page.close().await;
        let _ = self.driver.kill().await;
    }
}

/// A command of Chromium's own protocol.
#[derive(Debug)]
struct Chromium {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for Chromium {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (reqwest::Method, Option<String>) {
        (reqwest::Method::POST, Some(json!({ "cmd": self.command, "params": self.parameters }).to_string()))
    }
}
