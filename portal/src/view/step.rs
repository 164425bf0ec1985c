/// Where a step of a checklist stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    Done,
    Now,
    /// Someone has to decide something first.
    Stopped,
    Later,
}

impl StepState {
    pub fn class(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Now => "now",
            Self::Stopped => "stop",
            Self::Later => "",
        }
    }

    pub fn is_done(self) -> bool {
        self == Self::Done
    }

    pub fn is_now(self) -> bool {
        matches!(self, Self::Now | Self::Stopped)
    }
}
