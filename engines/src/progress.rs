//! What the engines tell whoever started them: one event, one line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Something that happened to an engine.
#[derive(Debug, Clone)]
pub enum Event {
    /// First start in this data directory.
    Preparing,
    Starting,
    Ready {
        after: Duration,
        starts: u32,
    },
    Died {
        reason: String,
        restart_in: Duration,
    },
    /// Given up; everything else should end too.
    Failed(String),
    Stopped,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparing => f.write_str("preparing its data, once"),
            Self::Starting => f.write_str("starting"),
            Self::Ready { after, starts: 1 } => write!(f, "ready after {:.1} s", after.as_secs_f32()),
            Self::Ready { after, .. } => write!(f, "ready again after {:.1} s", after.as_secs_f32()),
            Self::Died { reason, restart_in } => write!(f, "{reason}; starting again in {} ms", restart_in.as_millis()),
            Self::Failed(sentence) => f.write_str(sentence),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Where events go.
#[derive(Clone)]
pub struct Progress(Arc<Listener>);

type Listener = dyn Fn(&str, &Event) + Send + Sync;

impl Progress {
    pub fn new(listener: impl Fn(&str, &Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    pub(crate) fn send(&self, engine: &str, event: Event) {
        (self.0)(engine, &event);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new(|engine, event| match event {
            Event::Died { .. } | Event::Failed(_) => tracing::warn!(engine, "{event}"),
            _ => tracing::info!(engine, "{event}"),
        })
    }
}
