//! Starts the engines of a data directory together, and stops them together.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::artefacts::Artefacts;
use crate::child::{Recipe, family, stands_still};
use crate::datadir::{DataDir, write_private};
use crate::keeper::{Keeper, Ready, State};
use crate::ports::{self, Ports};
use crate::progress::{Event, Progress};
use crate::{Error, NAME_CLICKHOUSE, NAME_ENVOY, NAME_KAFKA, NAME_POSTGRES, NAME_STRIPE, kafka, postgres};

/// What to start, and where.
#[derive(Clone)]
pub struct Options {
    pub data_dir: PathBuf,
    pub ports: Ports,
    pub with: With,
    /// Where `engines/fetch` put the engines; looked for unless given.
    pub artefacts: Option<PathBuf>,
    /// The program that has the subcommand `engine` ([`crate::cli`]); this one unless given.
    pub program: Option<PathBuf>,
    /// ClickHouse's password; a random one, kept in the data directory, unless given. Empty: none is asked for.
    pub clickhouse_password: Option<String>,
    pub progress: Progress,
}

impl Options {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            ports: Ports::default(),
            with: With::default(),
            artefacts: None,
            program: None,
            clickhouse_password: None,
            progress: Progress::default(),
        }
    }

    fn own_program(&self) -> Result<PathBuf, Error> {
        match &self.program {
            Some(program) => Ok(program.clone()),
            None => std::env::current_exe().map_err(|source| Error::prepare("this program", &source)),
        }
    }
}

/// The engines to start.
#[derive(Debug, Clone, Copy)]
pub struct With {
    pub kafka: bool,
    pub clickhouse: bool,
    pub postgres: bool,
    /// The Stripe double, with stripe-mock behind it.
    pub stripe: bool,
}

impl Default for With {
    fn default() -> Self {
        Self { kafka: true, clickhouse: true, postgres: true, stripe: true }
    }
}

/// Where the engines answer. Kept in `engines.json`, readable by its owner only: it holds passwords.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    /// `host:port`
    pub kafka_brokers: String,
    pub clickhouse_url: String,
    pub clickhouse_user: String,
    pub clickhouse_password: String,
    /// With user, password and database; through the socket in the data directory unless a port was given.
    pub postgres_url: String,
    pub stripe_url: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Saved {
    #[serde(flatten)]
    addresses: Addresses,
    ports: Ports,
}

/// Running engines. Dropped, they are stopped.
pub struct Engines {
    data: DataDir,
    artefacts: Artefacts,
    addresses: Addresses,
    progress: Progress,
    keepers: Mutex<BTreeMap<String, Keeper>>,
    /// The first engine that was given up.
    failure: watch::Sender<Option<String>>,
}

impl Engines {
    /// Starts what is asked for, all at once, and returns when all of it answers.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let artefacts = Artefacts::find(options.artefacts.as_deref())?;
        let data = DataDir::open(&options.data_dir)?;
        let mut engines = Self {
            data,
            artefacts,
            addresses: Addresses::default(),
            progress: options.progress.clone(),
            keepers: Mutex::default(),
            failure: watch::Sender::new(None),
        };
        // Preparing waits for processes and disks, so it happens off the runtime, each engine beside the others.
        let prepared = tokio::task::spawn_blocking(move || engines.prepare(&options).map(|()| engines)).await;
        engines = prepared.map_err(|error| Error::Thread(error.to_string()))??;
        match engines.all_ready().await {
            Ok(()) => Ok(engines),
            Err(error) => {
                engines.stop().await;
                Err(error)
            }
        }
    }

    fn prepare(&mut self, options: &Options) -> Result<(), Error> {
        let file = self.data.path().join("engines.json");
        let last: Saved = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let (wished, last, mut taken) = (&options.ports, last.ports, Vec::new());
        let kafka_port = ports::choose(wished.kafka, last.kafka, &mut taken);
        let controller_port = ports::choose(wished.kafka_controller, last.kafka_controller, &mut taken);
        let clickhouse_port = ports::choose(wished.clickhouse, last.clickhouse, &mut taken);
        let stripe_port = ports::choose(wished.stripe, last.stripe, &mut taken);
        for port in [wished.kafka, wished.kafka_controller, wished.clickhouse, wished.postgres, wished.stripe].into_iter().flatten() {
            if !ports::is_free(port) {
                return Err(Error::PortTaken(port));
            }
        }

        self.addresses = std::thread::scope(|scope| -> Result<Addresses, Error> {
            let kafka = options.with.kafka.then(|| scope.spawn(|| self.start_kafka(kafka_port, controller_port)));
            let clickhouse = options.with.clickhouse.then(|| scope.spawn(|| self.start_clickhouse(options, clickhouse_port)));
            let postgres = options.with.postgres.then(|| scope.spawn(|| self.start_postgres(wished.postgres)));
            let stripe = options.with.stripe.then(|| scope.spawn(|| self.start_stripe(options, stripe_port)));
            let done = |thread: std::thread::ScopedJoinHandle<'_, Result<_, Error>>| {
                thread.join().unwrap_or_else(|_| Err(Error::Thread("preparing an engine panicked".into())))
            };
            let mut addresses = Addresses::default();
            if let Some(kafka) = kafka {
                done(kafka)?;
                addresses.kafka_brokers = format!("127.0.0.1:{kafka_port}");
            }
            if let Some(clickhouse) = clickhouse {
                addresses.clickhouse_password = done(clickhouse)?;
                addresses.clickhouse_url = format!("http://127.0.0.1:{clickhouse_port}");
                addresses.clickhouse_user = "default".into();
            }
            if let Some(postgres) = postgres {
                addresses.postgres_url = done(postgres)?;
            }
            if let Some(stripe) = stripe {
                addresses.stripe_url = done(stripe)?;
            }
            Ok(addresses)
        })?;

        let ports = Ports {
            kafka: Some(kafka_port),
            kafka_controller: Some(controller_port),
            clickhouse: Some(clickhouse_port),
            stripe: Some(stripe_port),
            ..wished.clone()
        };
        let saved = Saved { addresses: self.addresses.clone(), ports };
        let text = serde_json::to_vec_pretty(&saved).expect("texts and numbers");
        write_private(&file, &text).map_err(|source| Error::prepare("engines.json", &source))
    }

    fn start_kafka(&self, port: u16, controller: u16) -> Result<String, Error> {
        self.progress.send(NAME_KAFKA, Event::Starting);
        let (recipe, ready) = kafka::prepare(&self.data, &self.artefacts, &self.progress, port, controller)?;
        self.spawn_named(NAME_KAFKA, recipe, ready)?;
        Ok(String::new())
    }

    fn start_clickhouse(&self, options: &Options, port: u16) -> Result<String, Error> {
        self.progress.send(NAME_CLICKHOUSE, Event::Starting);
        let failed = |source: std::io::Error| Error::prepare(NAME_CLICKHOUSE, &source);
        let password = match &options.clickhouse_password {
            Some(password) => password.clone(),
            None => self.data.password(NAME_CLICKHOUSE).map_err(failed)?,
        };
        let directory = self.data.engine(NAME_CLICKHOUSE).map_err(failed)?;
        let recipe = Recipe::new(options.own_program()?, &directory, &self.data.log(NAME_CLICKHOUSE))
            .args(["engine", "clickhouse", "--data"])
            .arg(&directory)
            .arg("--library")
            .arg(self.artefacts.libchdb()?)
            .arg(format!("--listen=127.0.0.1:{port}"))
            // Not an argument: those are for all to see.
            .env("FAREBOX_CLICKHOUSE_PASSWORD", &password)
            .env("TZ", "UTC");
        self.spawn_named(NAME_CLICKHOUSE, recipe, Box::new(move |_| pings(port)))?;
        Ok(password)
    }

    fn start_postgres(&self, port: Option<u16>) -> Result<String, Error> {
        self.progress.send(NAME_POSTGRES, Event::Starting);
        let cluster = postgres::prepare(&self.data, &self.progress, port)?;
        self.spawn_named(NAME_POSTGRES, cluster.recipe, cluster.ready)?;
        Ok(cluster.url)
    }

    fn start_stripe(&self, options: &Options, port: u16) -> Result<String, Error> {
        self.progress.send(NAME_STRIPE, Event::Starting);
        let directory = self.data.engine(NAME_STRIPE).map_err(|source| Error::prepare(NAME_STRIPE, &source))?;
        let recipe = Recipe::new(options.own_program()?, &directory, &self.data.log(NAME_STRIPE))
            .args(["engine", "stripe", "--data"])
            .arg(&directory)
            .arg("--stripe-mock")
            .arg(self.artefacts.stripe_mock()?)
            .arg(format!("--listen=127.0.0.1:{port}"));
        self.spawn_named(NAME_STRIPE, recipe, Box::new(move |_| ports::answers(port)))?;
        Ok(format!("http://127.0.0.1:{port}"))
    }

    /// Starts Envoy with a configuration whose first listener is on `port`.
    pub fn start_envoy(&self, configuration: &Path, port: u16) -> Result<(), Error> {
        self.progress.send(NAME_ENVOY, Event::Starting);
        let directory = self.data.engine(NAME_ENVOY).map_err(|source| Error::prepare(NAME_ENVOY, &source))?;
        let recipe = Recipe::new(self.artefacts.envoy()?, &directory, &self.data.log(NAME_ENVOY))
            .args(["--log-level", "warning", "--disable-hot-restart", "--concurrency", "2", "-c"])
            .arg(configuration);
        self.spawn_named(NAME_ENVOY, recipe, Box::new(move |_| ports::answers(port)))
    }

    /// Starts and keeps any program as an engine, in place of one of the same name.
    pub fn spawn_named(&self, name: &str, recipe: Recipe, ready: Ready) -> Result<(), Error> {
        let predecessor = self.keepers().remove(name);
        drop(predecessor); // waits for its process to end, so not under the lock
        let (listener, failure) = (self.progress.clone(), self.failure.clone());
        let progress = Progress::new(move |engine, event| {
            listener.send(engine, event.clone());
            if let Event::Failed(sentence) = event {
                failure.send_replace(Some(sentence.clone()));
            }
        });
        let keeper = Keeper::start(name, recipe, ready, progress).map_err(|source| Error::prepare(name, &source))?;
        self.keepers().insert(name.to_owned(), keeper);
        Ok(())
    }

    /// A recipe whose log is in the data directory, for [`Engines::spawn_named`].
    pub fn recipe(&self, name: &str, program: impl Into<PathBuf>) -> Result<Recipe, Error> {
        let directory = self.data.engine(name).map_err(|source| Error::prepare(name, &source))?;
        Ok(Recipe::new(program, &directory, &self.data.log(name)))
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub fn artefacts(&self) -> &Artefacts {
        &self.artefacts
    }

    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// The process of an engine, while it has one.
    pub fn pid(&self, name: &str) -> Option<i32> {
        self.keepers().get(name).and_then(Keeper::pid)
    }

    /// Waits until an engine answers, or is given up.
    pub async fn ready(&self, name: &str) -> Result<(), Error> {
        let mut state = self.watch(name)?;
        let state = state.wait_for(|state| matches!(state, State::Ready { .. } | State::Failed(_) | State::Stopped)).await;
        match state.map(|state| state.clone()) {
            Ok(State::Ready { .. }) => Ok(()),
            Ok(State::Failed(sentence)) => Err(Error::GivenUp(sentence)),
            _ => Err(Error::GivenUp(format!("{name} was stopped"))),
        }
    }

    async fn all_ready(&self) -> Result<(), Error> {
        let names: Vec<String> = self.keepers().keys().cloned().collect();
        futures::future::try_join_all(names.iter().map(|name| self.ready(name))).await.map(drop)
    }

    /// Completes when an engine is given up: the sentence to end with.
    pub async fn failed(&self) -> Error {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await.map(|sentence| sentence.clone()) {
            Ok(Some(sentence)) => Error::GivenUp(sentence),
            _ => std::future::pending().await,
        }
    }

    /// `kill -9`, as a fault; the engine is started again. Returns when the process is gone.
    pub async fn kill(&self, name: &str) -> Result<(), Error> {
        let (mut state, before) = self.living(name)?;
        self.with(name, |keeper| keeper.signal(Signal::SIGKILL, false))?;
        let _ = state.wait_for(|state| *state != before).await;
        Ok(())
    }

    /// Ends an engine in an orderly way and waits until the next process of it answers.
    pub async fn restart(&self, name: &str) -> Result<(), Error> {
        let (mut state, before) = self.living(name)?;
        self.with(name, Keeper::restart)?;
        let _ = state.wait_for(|state| *state != before).await;
        self.ready(name).await
    }

    /// `kill -9`, and no new process until [`Engines::bring_up`].
    pub async fn take_down(&self, name: &str) -> Result<(), Error> {
        let mut state = self.watch(name)?;
        self.with(name, Keeper::take_down)?;
        let _ = state.wait_for(|state| matches!(state, State::Down | State::Failed(_) | State::Stopped)).await;
        Ok(())
    }

    pub async fn bring_up(&self, name: &str) -> Result<(), Error> {
        self.with(name, Keeper::bring_up)?;
        self.ready(name).await
    }

    /// Stops an engine's processes where they are (SIGSTOP): connections stay open and nothing answers.
    /// Returns when they stand still.
    pub async fn pause(&self, name: &str) -> Result<(), Error> {
        self.with(name, |keeper| keeper.signal(Signal::SIGSTOP, true))?;
        let processes = self.pid(name).map(family).unwrap_or_default();
        while !processes.iter().all(|pid| stands_still(*pid)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    pub fn resume(&self, name: &str) -> Result<(), Error> {
        self.with(name, |keeper| keeper.signal(Signal::SIGCONT, true))
    }

    /// Stops every engine in an orderly way, all at once.
    pub async fn stop(self) {
        // Waiting for processes to end blocks, and the last of the engines goes with the directory's lock.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// The state of an engine that has a process, or soon will.
    fn living(&self, name: &str) -> Result<(watch::Receiver<State>, State), Error> {
        let mut state = self.watch(name)?;
        let now = state.borrow_and_update().clone();
        match now {
            State::Failed(sentence) => Err(Error::GivenUp(sentence)),
            State::Down | State::Stopped => Err(Error::GivenUp(format!("{name} does not run"))),
            State::Starting { .. } | State::Ready { .. } => Ok((state, now)),
        }
    }

    fn watch(&self, name: &str) -> Result<watch::Receiver<State>, Error> {
        self.with(name, Keeper::state)
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&Keeper) -> T) -> Result<T, Error> {
        self.keepers().get(name).map(act).ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    fn keepers(&self) -> MutexGuard<'_, BTreeMap<String, Keeper>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        let keepers = std::mem::take(&mut *self.keepers());
        for keeper in keepers.values() {
            keeper.ask_to_stop();
        }
        for (name, keeper) in keepers {
            drop(keeper);
            self.progress.send(&name, Event::Stopped);
        }
    }
}

/// Whether ClickHouse's front answers its health check.
fn pings(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.ends_with("Ok.\n"))
}
