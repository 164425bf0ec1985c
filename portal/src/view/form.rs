use super::Cell;

/// What someone typed, kept when a form comes back, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Field {
    pub value: String,
    pub error: Option<String>,
}

impl Field {
    pub fn of(value: impl Into<String>) -> Self {
        Self { value: value.into(), error: None }
    }

    /// Keeps the value and says what to do.
    pub fn wrong(&mut self, error: impl Into<String>) {
        self.error.get_or_insert(error.into());
    }

    pub fn is_wrong(&self) -> bool {
        self.error.is_some()
    }
}

/// A plan as a person chooses it: the price in words first.
#[derive(Debug, Clone)]
pub struct PlanCard {
    pub name: String,
    /// The name the form sends.
    pub value: String,
    /// `$49 a month`, `Free`, `Pay as you go`.
    pub price: String,
    /// One sentence for each further price or limit.
    pub points: Vec<String>,
    pub note: String,
    pub current: bool,
}

/// A dated line of what happened.
#[derive(Debug, Clone)]
pub struct Happening {
    pub when: String,
    pub what: Cell,
}
