//! What the catalogue says about sources and formats, remembered for a second: which format a source is registered with,
//! and the operator's own formats. While PostgreSQL is away, what was known last goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farebox_core::field_map;
use farebox_core::ids::WorkspaceId;
use farebox_core::source::{self, Source};
use sqlx::PgPool;

use crate::formats::Format;
use crate::formats::mapped::Mapped;

const FRESH: Duration = Duration::from_secs(1);

/// Of one workspace.
#[derive(Debug, Default)]
pub struct Registered {
    sources: Vec<Source>,
    mapped: Vec<Arc<Mapped>>,
}

impl Registered {
    /// One that comes with Farebox, or the workspace's own.
    pub fn format(&self, name: &str) -> Option<Format> {
        let own = || self.mapped.iter().find(|mapped| mapped.name() == name).map(|mapped| Format::Mapped(mapped.clone()));
        Format::parse(name).or_else(own)
    }

    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// The names of the workspace's own formats.
    pub fn own(&self) -> impl Iterator<Item = &str> {
        self.mapped.iter().map(|mapped| mapped.name())
    }
}

pub struct Known {
    pg: PgPool,
    /// Workspaces are those of verified tokens and registered sources, so there are not more of them than there are.
    workspaces: Mutex<HashMap<WorkspaceId, (Instant, Arc<Registered>)>>,
}

impl Known {
    pub fn new(pg: PgPool) -> Self {
        Self { pg, workspaces: Mutex::default() }
    }

    pub async fn of(&self, workspace: &WorkspaceId) -> anyhow::Result<Arc<Registered>> {
        let last = self.workspaces().get(workspace).cloned();
        if let Some((at, registered)) = &last
            && at.elapsed() < FRESH
        {
            return Ok(registered.clone());
        }
        match (self.read(workspace).await, last) {
            (Ok(registered), _) => {
                let registered = Arc::new(registered);
                self.workspaces().insert(workspace.clone(), (Instant::now(), registered.clone()));
                Ok(registered)
            }
            (Err(error), Some((_, registered))) => {
                tracing::debug!("sources and formats are those of before, because they cannot be read: {error:#}");
                Ok(registered)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn read(&self, workspace: &WorkspaceId) -> anyhow::Result<Registered> {
        let mut conn = self.pg.acquire().await?;
        let sources = source::of_workspace(&mut conn, workspace).await?;
        let maps = field_map::of_workspace(&mut conn, workspace).await?;
        Ok(Registered { sources, mapped: maps.into_iter().map(|map| Arc::new(Mapped::new(map))).collect() })
    }

    fn workspaces(&self) -> std::sync::MutexGuard<'_, HashMap<WorkspaceId, (Instant, Arc<Registered>)>> {
        // A map of whole entries is whole after any panic.
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
