use askama::Template;

use super::Icon;

/// Ordinary states stay grey; colour marks exceptions, always with a glyph and a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Ok,
    Warn,
    Bad,
    Accent,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Ok => " ok",
            Self::Warn => " warn",
            Self::Bad => " bad",
            Self::Accent => " accent",
        }
    }

    pub fn icon(self) -> Option<Icon> {
        match self {
            Self::Plain => None,
            Self::Ok => Some(Icon::Check),
            Self::Warn => Some(Icon::TriangleAlert),
            Self::Bad => Some(Icon::CircleAlert),
            Self::Accent => Some(Icon::RotateCw),
        }
    }
}

#[derive(Debug, Clone, Template)]
#[template(
    ext = "html",
    source = r#"<span class="badge{{ tone.class() }}">{% if let Some(icon) = tone.icon() %}{{ icon }}{% endif %}{{ text }}</span>"#
)]
pub struct Badge {
    pub tone: Tone,
    pub text: String,
}

impl Badge {
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }

    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(Tone::Plain, text)
    }
}
