use askama::Template;

use super::{Icon, Tone};

/// A link that is the next step.
#[derive(Debug, Clone)]
pub struct Action {
    pub label: String,
    pub href: String,
}

impl Action {
    pub fn new(label: impl Into<String>, href: impl Into<String>) -> Self {
        Self { label: label.into(), href: href.into() }
    }
}

/// Something to know or to do, with the one link that does it. As a toast it also announces itself.
#[derive(Debug, Clone, Template)]
#[template(path = "parts/note.html")]
pub struct Note {
    pub tone: Tone,
    pub title: String,
    pub text: String,
    pub action: Option<Action>,
}

impl Note {
    pub fn new(tone: Tone, title: impl Into<String>, text: impl Into<String>) -> Self {
        Self { tone, title: title.into(), text: text.into(), action: None }
    }

    #[must_use]
    pub fn with(mut self, label: impl Into<String>, href: impl Into<String>) -> Self {
        self.action = Some(Action::new(label, href));
        self
    }

    fn icon(&self) -> Icon {
        self.tone.icon().unwrap_or(Icon::CircleCheck)
    }
}
