//! Where `engines/fetch` put the engines, and what the machine brings.

use std::path::{Path, PathBuf};

/// What is missing, and how to get it.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("the engines are not here: {0} does not exist. Run engines/fetch in the project, or set FAREBOX_ENGINES")]
    Directory(PathBuf),
    #[error("{what} is missing: {path} does not exist. Run engines/fetch in the project")]
    Engine { what: &'static str, path: PathBuf },
    #[error("{what} is not installed. On Debian: apt-get install {package}")]
    Program { what: &'static str, package: &'static str },
}

/// The directory of fetched engines.
#[derive(Debug, Clone)]
pub struct Artefacts {
    root: PathBuf,
}

impl Artefacts {
    /// `given`, or `$FAREBOX_ENGINES`, or the nearest `.engines` upwards from the working directory
    /// and from the program.
    pub fn find(given: Option<&Path>) -> Result<Self, Missing> {
        let named = given.map(Path::to_owned).or_else(|| std::env::var_os("FAREBOX_ENGINES").map(PathBuf::from));
        if let Some(root) = named {
            return if root.is_dir() { Ok(Self { root }) } else { Err(Missing::Directory(root)) };
        }
        let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
        for start in starts.iter().flatten() {
            if let Some(root) = start.ancestors().map(|folder| folder.join(".engines")).find(|root| root.is_dir()) {
                return Ok(Self { root });
            }
        }
        Err(Missing::Directory(starts.into_iter().flatten().next().unwrap_or_default().join(".engines")))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn libchdb(&self) -> Result<PathBuf, Missing> {
        self.existing("ClickHouse", "clickhouse/libchdb.so")
    }

    pub fn kafka_jars(&self) -> Result<PathBuf, Missing> {
        self.existing("Kafka", "kafka/libs")
    }

    pub fn envoy(&self) -> Result<PathBuf, Missing> {
        self.existing("Envoy", "envoy/envoy")
    }

    pub fn traefik(&self) -> Result<PathBuf, Missing> {
        self.existing("Traefik", "traefik/traefik")
    }

    pub fn stripe_mock(&self) -> Result<PathBuf, Missing> {
        self.existing("stripe-mock", "stripe-mock/stripe-mock")
    }

    /// The accessibility checks that browser tests put into pages; `engines/fetch --browser` brings it.
    pub fn axe(&self) -> Result<PathBuf, Missing> {
        self.existing("axe-core", "axe/axe.min.js")
    }

    fn existing(&self, what: &'static str, name: &str) -> Result<PathBuf, Missing> {
        let path = self.root.join(name);
        // Absolute, because the engines run in directories of their own.
        path.canonicalize().map_err(|_| Missing::Engine { what, path })
    }
}

/// A program found on the `PATH`.
pub fn program(name: &str, what: &'static str, package: &'static str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    found.ok_or(Missing::Program { what, package })
}

/// nginx, which Debian keeps where not every `PATH` looks.
pub fn nginx() -> Result<PathBuf, Missing> {
    let debian = PathBuf::from("/usr/sbin/nginx");
    program("nginx", "nginx", "nginx-light").or_else(|missing| if debian.is_file() { Ok(debian) } else { Err(missing) })
}

/// The directory of the newest PostgreSQL of at least version 15.
pub fn postgres_programs() -> Result<PathBuf, Missing> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = debian
        .filter_map(|path| Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path.join("bin"))))
        .filter(|(version, programs)| *version >= 15 && programs.join("initdb").is_file())
        .max();
    match newest {
        Some((_, programs)) => Ok(programs),
        None => program("initdb", "PostgreSQL 15 or newer", "postgresql").map(|path| path.parent().map(Path::to_owned).unwrap_or_default()),
    }
}
