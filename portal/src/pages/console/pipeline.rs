use askama::Template;

use crate::view::{Badge, Chart, Equation, Facts, Note, Shell, Table};

#[derive(Debug, Clone, Template)]
#[template(path = "console/pipeline.html")]
pub struct PipelinePage {
    pub shell: Shell,
    pub subtitle: String,
    pub verdict: Badge,
    pub note: Option<Note>,
    pub equation: Equation,
    pub verdicts: Chart,
    pub stages: Table,
    pub sources: Table,
    pub engines: Table,
    pub complete: Facts,
    pub dead_letters: Table,
    pub dead_count: String,
}
