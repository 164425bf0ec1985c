//! A second instance beside the suite's: `farebox serve` on the same stores, each reached through a wire that a test can
//! cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use farebox_core::config::Config;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::harness::{Suite, eventually, free_port};
use crate::shop::SOON;

pub struct Instance {
    pub url: String,
    pub postgres: Wire,
    pub clickhouse: Wire,
    process: Child,
}

impl Instance {
    /// With these roles, once it answers.
    pub async fn start(suite: &Suite, name: &str, roles: &str) -> Self {
        let config = Config::load(&suite.data.join("farebox.toml")).expect("the suite's configuration");
        let (pg, ch) =
            (url::Url::parse(&config.postgres.url).expect("an address"), url::Url::parse(&config.clickhouse.url).expect("an address"));
        let (postgres, clickhouse) = (Wire::to(&pg).await, Wire::to(&ch).await);
        let through = |mut url: url::Url, wire: &Wire| {
            url.set_query(None);
            url.set_host(Some("127.0.0.1")).expect("a host");
            url.set_port(Some(wire.address.port())).expect("a port");
            url.to_string().trim_end_matches('/').to_owned()
        };
        let port = free_port().expect("a port");
        let log = std::fs::File::create(suite.data.join(format!("{name}.log"))).expect("a file");
        let process = Command::new(env!("CARGO_BIN_EXE_farebox"))
            .args(["serve", "--roles", roles, "--config"])
            .arg(PathBuf::from(&suite.data).join("farebox.toml"))
            .env("FAREBOX_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .env("FAREBOX_POSTGRES__URL", through(pg, &postgres))
            .env("FAREBOX_CLICKHOUSE__URL", through(ch, &clickhouse))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("`farebox serve` runs");
        let url = format!("http://127.0.0.1:{port}");
        let ready = format!("{url}/readyz");
        eventually("the second instance answers", SOON, || async {
            reqwest::get(&ready).await.is_ok_and(|r| r.status().is_success()).then_some(())
        })
        .await;
        Self { url, postgres, clickhouse, process }
    }

    pub async fn stop(mut self) {
        let _ = self.process.kill().await;
    }
}

/// Carries connections to a store until it is cut.
pub struct Wire {
    address: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
}

impl Wire {
    async fn to(store: &url::Url) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let port = store.port_or_known_default().expect("a port");
        // PostgreSQL listens on a socket in a directory of its own.
        let socket = store.query_pairs().find(|(name, _)| name == "host").map(|(_, host)| format!("{host}/.s.PGSQL.{port}"));
        let store = socket.unwrap_or_else(|| format!("{}:{port}", store.host_str().expect("a host")));
        let whole = Arc::new(watch::Sender::new(true));
        let wire = whole.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (store, mut state) = (store.clone(), wire.subscribe());
                tokio::spawn(async move {
                    if !*state.borrow() {
                        return;
                    }
                    let carried = async {
                        if store.starts_with('/') {
                            let mut far = UnixStream::connect(&store).await?;
                            tokio::io::copy_bidirectional(&mut near, &mut far).await
                        } else {
                            let mut far = TcpStream::connect(&store).await?;
                            tokio::io::copy_bidirectional(&mut near, &mut far).await
                        }
                    };
                    tokio::select! {
                        _ = carried => {}
                        _ = state.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        Self { address, whole }
    }

    /// Connections break, and new ones are closed at once.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}
