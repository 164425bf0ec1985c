//! `farebox up`: the engines and all roles on this machine, in one data directory.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use farebox_core::auth::{self, Scope};
use farebox_core::config::{self, Config};
use farebox_core::workspace::{self, NewWorkspace, Workspace};
use farebox_core::{App, clock};
use farebox_engines::{Addresses, Engines, Event, Progress};
use farebox_portal::entry;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::instance::{Credentials, Find, Instance, write_private};
use crate::roles::{self, Role};

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Port of the pages and the API; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// The first workspace, as provider/environment; in any environment but `live` its clock can be moved ahead.
    #[arg(long, default_value = "acme/live")]
    pub workspace: String,
}

/// What only this instance knows, made at its first start.
#[derive(Serialize, Deserialize)]
struct Secrets {
    encryption_key: String,
    /// The key of the account at the Stripe double.
    stripe_key: String,
}

/// The owner's address until they enter their own.
pub const OWNER: &str = "owner@localhost";

/// A started instance: engines, stores, and the address it will listen on.
pub struct Running {
    pub app: App,
    pub engines: Engines,
    pub instance: Instance,
    pub credentials: Credentials,
    pub workspace: Workspace,
    roles: tokio::task::JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
}

pub async fn run(find: &Find, options: &Options) -> anyhow::Result<()> {
    let asked = roles::stop_on_signal()?;
    let mut running = start(find, options, engine_lines()).await?;
    say!();
    say!("  Portal       {}/", running.credentials.base_url);
    say!("  Console      {}/console", running.credentials.base_url);
    match running.owner_link().await? {
        Some(link) => say!("  Owner        {link}   (works once; sets your password)"),
        None => say!("  Owner        `farebox login-link --data {}` prints a fresh sign-in link", find.data.display()),
    }
    say!("  For scripts  {}", find.credentials_file().display());
    say!();
    say!("Ctrl-C stops everything.");
    let ended = running.until(asked.cancelled()).await;
    ended.and(running.stop().await)
}

/// Starts everything and returns when the instance answers.
pub async fn start(find: &Find, options: &Options, progress: Progress) -> anyhow::Result<Running> {
    let data = &find.data;
    let engines = Engines::start(farebox_engines::Options { progress, ..farebox_engines::Options::new(data) }).await?;
    // Credentials of an earlier start would lead scripts to a dead address.
    let earlier: Option<Credentials> = std::fs::read(find.credentials_file()).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let secrets = secrets(&data.join("secrets.json"))?;
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], options.port)))
        .await
        .with_context(|| format!("port {} is taken; choose another with --port, or 0 for a free one", options.port))?;
    let base_url = format!("http://localhost:{}", listener.local_addr()?.port());
    let addresses = engines.addresses();
    let config = Config {
        http: config::Http { listen: listener.local_addr()?, public_url: base_url.clone(), ..Default::default() },
        // All roles share this process's pool, and Stripe's answers come in crowds.
        postgres: config::Postgres { url: addresses.postgres_url.clone(), max_connections: 40 },
        clickhouse: config::ClickHouse {
            url: addresses.clickhouse_url.clone(),
            user: addresses.clickhouse_user.clone(),
            password: addresses.clickhouse_password.clone(),
            ..Default::default()
        },
        kafka: config::Kafka { brokers: addresses.kafka_brokers.clone(), ..Default::default() },
        billing: config::Billing {
            stripe_url: addresses.stripe_url.clone(),
            encryption_key: secrets.encryption_key.clone(),
            ..Default::default()
        },
        ..Default::default()
    };
    let config = config.with_environment()?;
    write_config(&data.join("farebox.toml"), &config)?;
    let app = App::connect(config).await?;
    app.migrate().await?;

    let (workspace, credentials) = records(&app, options, earlier, &base_url, addresses).await?;
    let stop = CancellationToken::new();
    let roles = tokio::spawn(roles::run(app.clone(), &Role::ALL, listener, stop.clone()));
    let instance = Instance::new(&base_url, &credentials.admin_token, &credentials.ingest_token);
    connect_stripe(&app, &workspace, &secrets).await?;
    write_private(&find.credentials_file(), &credentials)?;
    Ok(Running { app, engines, instance, credentials, workspace, roles, stop })
}

/// One line for each thing that happens to an engine.
fn engine_lines() -> Progress {
    Progress::new(|engine, event| match event {
        Event::Starting => {}
        Event::Preparing | Event::Ready { .. } | Event::Stopped | Event::Died { .. } | Event::Failed(_) => {
            say!("  {engine:12} {event}");
        }
    })
}

impl Running {
    /// The owner's one-time link, while nobody has signed in yet.
    pub async fn owner_link(&self) -> anyhow::Result<Option<String>> {
        let mut conn = self.app.pg.acquire().await?;
        if entry::has_owner(&mut conn, &self.workspace.id).await? {
            return Ok(None);
        }
        let link = entry::owner_login_link(&mut conn, &self.workspace.id, OWNER).await?;
        Ok(Some(format!("{}{}", self.credentials.base_url, link.path)))
    }

    /// Until somebody asks for an end, or until something fails for good.
    pub async fn until(&mut self, asked: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = asked => Ok(()),
            ended = &mut self.roles => ended?,
            failure = self.engines.failed() => Err(failure.into()),
        }
    }

    /// The rooms first, so that what was acknowledged is flushed, then the engines.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let ended = if self.roles.is_finished() { Ok(()) } else { self.roles.await? };
        self.app.pg.close().await;
        self.engines.stop().await;
        ended
    }
}

/// The first workspace and its tokens.
async fn records(
    app: &App,
    options: &Options,
    earlier: Option<Credentials>,
    base_url: &str,
    addresses: &Addresses,
) -> anyhow::Result<(Workspace, Credentials)> {
    let mut tx = app.pg.begin().await?;
    let display_name = options.workspace.split('/').next().map(capitalised).unwrap_or_default();
    let workspace = workspace::create(
        &mut tx,
        NewWorkspace {
            name: &options.workspace,
            display_name: &display_name,
            currency: "USD".parse()?,
            time_zone: chrono_tz::UTC,
            test_mode: is_test(&options.workspace),
            is_default: true,
        },
    )
    .await
    .with_context(|| format!("workspace `{}` cannot be made: its name must look like provider/environment", options.workspace))?;
    let engines = addresses.clone();
    if let Some(earlier) = earlier.filter(|e| e.workspace == workspace.name)
        && app.tokens.verify(&earlier.admin_token).await.is_ok()
    {
        tx.commit().await?;
        return Ok((workspace, Credentials { base_url: base_url.to_owned(), engines, ..earlier }));
    }
    let (_, admin) = auth::create_token(&mut tx, &workspace.id, "admin of this machine", &Scope::ALL, workspace.test_mode, None).await?;
    let (_, ingest) =
        auth::create_token(&mut tx, &workspace.id, "gateways of this machine", &[Scope::Ingest, Scope::Decide], workspace.test_mode, None)
            .await?;
    tx.commit().await?;
    let credentials = Credentials {
        base_url: base_url.to_owned(),
        workspace: workspace.name.clone(),
        admin_token: admin.reveal().to_owned(),
        ingest_token: ingest.reveal().to_owned(),
        engines,
    };
    Ok((workspace, credentials))
}

/// A workspace of any environment but `live` carries its own clock and can be moved ahead.
fn is_test(workspace: &str) -> bool {
    !workspace.ends_with("/live")
}

/// Points the workspace at the Stripe double, unless it already has a key.
async fn connect_stripe(app: &App, workspace: &Workspace, secrets: &Secrets) -> anyhow::Result<()> {
    let mut conn = app.pg.acquire().await?;
    if farebox_billing::stripe::settings::status(&mut conn, &workspace.id).await?.configured {
        return Ok(());
    }
    farebox_billing::stripe::settings::set(&mut conn, &app.config.billing, &workspace.id, &secrets.stripe_key, None, "farebox").await?;
    drop(conn);
    farebox_billing::stripe::register_webhook(app, &workspace.id).await?;
    Ok(())
}

fn secrets(file: &Path) -> anyhow::Result<Secrets> {
    if let Ok(text) = std::fs::read(file) {
        return serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; restore it from a backup, since Stripe keys are encrypted with it", file.display()));
    }
    let mut rng = rand::rng();
    let account = hex::encode(rng.random::<[u8; 6]>());
    let secrets = Secrets {
        encryption_key: hex::encode(rng.random::<[u8; 32]>()),
        stripe_key: format!("sk_test_{account}_{}", hex::encode(rng.random::<[u8; 12]>())),
    };
    write_private(file, &secrets)?;
    Ok(secrets)
}

/// The configuration as it was started, for commands that work on the stores of this instance.
fn write_config(file: &Path, config: &Config) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let text = format!("# Written by `farebox up` at {}; changed at each start.\n{}", clock::now().to_rfc3339(), toml::to_string(config)?);
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    out.write_all(text.as_bytes())?;
    Ok(())
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
