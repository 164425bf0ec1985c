use askama::Template;

use super::Badge;

#[derive(Debug, Clone)]
pub struct Column {
    pub label: String,
    pub numeric: bool,
    /// Read out, but not drawn: a column of buttons.
    pub hidden: bool,
}

impl Column {
    pub fn text(label: impl Into<String>) -> Self {
        Self { label: label.into(), numeric: false, hidden: false }
    }

    pub fn number(label: impl Into<String>) -> Self {
        Self { label: label.into(), numeric: true, hidden: false }
    }

    pub fn actions() -> Self {
        Self { label: "Actions".into(), numeric: true, hidden: true }
    }
}

/// One cell: a text, which may be a link, in type for code, with a second line, a badge, or a bar for its share.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    pub text: String,
    pub sub: Option<String>,
    pub href: Option<String>,
    pub button: Option<String>,
    pub badge: Option<Badge>,
    pub mono: bool,
    pub strong: bool,
    /// Class of the share's bar, by `format::share_class`.
    pub share: Option<String>,
    /// The sign of a movement: `up` or `down`, which also say so by the text's own sign.
    pub class: &'static str,
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub fn mono(text: impl Into<String>) -> Self {
        Self { mono: true, ..Self::text(text) }
    }

    pub fn link(text: impl Into<String>, href: impl Into<String>) -> Self {
        Self { href: Some(href.into()), ..Self::text(text) }
    }

    /// A link drawn as a small button; `about` is read out after the label.
    pub fn button(label: impl Into<String>, about: impl Into<String>, href: impl Into<String>) -> Self {
        Self { button: Some(about.into()), href: Some(href.into()), ..Self::text(label) }
    }

    pub fn badge(badge: Badge) -> Self {
        Self { badge: Some(badge), ..Self::default() }
    }

    #[must_use]
    pub fn sub(mut self, sub: impl Into<String>) -> Self {
        self.sub = Some(sub.into());
        self
    }

    #[must_use]
    pub fn share(mut self, class: String) -> Self {
        self.share = Some(class);
        self
    }
}

/// A table of rows to compare. On a phone each row becomes a block of label and value. The first cell heads its row.
#[derive(Debug, Clone, Default, Template)]
#[template(path = "parts/table.html")]
pub struct Table {
    pub caption: String,
    pub caption_shown: bool,
    pub dense: bool,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
    pub foot: Vec<Cell>,
}

impl Table {
    pub fn new(caption: impl Into<String>, columns: Vec<Column>) -> Self {
        Self { caption: caption.into(), columns, ..Self::default() }
    }

    #[must_use]
    pub fn dense(mut self) -> Self {
        self.dense = true;
        self
    }

    #[must_use]
    pub fn with_caption(mut self) -> Self {
        self.caption_shown = true;
        self
    }

    #[must_use]
    pub fn rows(mut self, rows: impl IntoIterator<Item = Vec<Cell>>) -> Self {
        self.rows = rows.into_iter().collect();
        self
    }

    #[must_use]
    pub fn foot(mut self, foot: Vec<Cell>) -> Self {
        self.foot = foot;
        self
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
