//! What usage can be grouped and filtered by. Names are a closed list, values always bound parameters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::MeteringError;
use crate::facts::Needs;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Dimension {
    Consumer,
    Subscription,
    /// The plan's name.
    Plan,
    Api,
    /// The event's type.
    Type,
    Status,
    /// `2xx`, `4xx`, ...
    StatusClass,
    /// `true` or `false`, by the counting rule.
    Counted,
    /// Why an event does not count: unattributed, marked, refused, server_error; empty when it does.
    Reason,
    ApiVersion,
    Route,
    Method,
    Credential,
    Environment,
    Marker,
    Source,
    Gateway,
    Country,
    AnsweredBy,
    Cached,
    Subject,
    /// How long the call took, in classes: [`LATENCY_CLASSES`].
    LatencyClass,
    /// How large its answer was, in classes: [`SIZE_CLASSES`].
    SizeClass,
    /// A free property, by its JSON pointer.
    Property(String),
}

/// Each below so many microseconds; what takes longer is in the last. No time at all is not known.
pub const LATENCY_CLASSES: [(&str, u64); 5] =
    [("unknown", 1), ("under_100ms", 100_000), ("under_300ms", 300_000), ("under_1s", 1_000_000), ("under_3s", 3_000_000)];
const SLOWEST: &str = "from_3s";

/// Each below so many bytes; what is larger is in the last.
pub const SIZE_CLASSES: [(&str, u64); 5] =
    [("under_1kb", 1_000), ("under_10kb", 10_000), ("under_100kb", 100_000), ("under_1mb", 1_000_000), ("under_10mb", 10_000_000)];
const LARGEST: &str = "from_10mb";

const NAMED: [(&str, Dimension); 23] = [
    ("consumer", Dimension::Consumer),
    ("subscription", Dimension::Subscription),
    ("plan", Dimension::Plan),
    ("api", Dimension::Api),
    ("type", Dimension::Type),
    ("status", Dimension::Status),
    ("status_class", Dimension::StatusClass),
    ("counted", Dimension::Counted),
    ("reason", Dimension::Reason),
    ("api_version", Dimension::ApiVersion),
    ("route", Dimension::Route),
    ("method", Dimension::Method),
    ("credential", Dimension::Credential),
    ("environment", Dimension::Environment),
    ("marker", Dimension::Marker),
    ("source", Dimension::Source),
    ("gateway", Dimension::Gateway),
    ("country", Dimension::Country),
    ("answered_by", Dimension::AnsweredBy),
    ("cached", Dimension::Cached),
    ("subject", Dimension::Subject),
    ("latency_class", Dimension::LatencyClass),
    ("size_class", Dimension::SizeClass),
];

impl Dimension {
    pub fn name(&self) -> &str {
        match self {
            Self::Property(pointer) => pointer,
            other => NAMED.iter().find(|(_, d)| d == other).map_or("", |(name, _)| name),
        }
    }

    /// The slimmest table that knows it.
    pub(crate) fn needs(&self) -> Needs {
        match self {
            Self::Consumer
            | Self::Subscription
            | Self::Plan
            | Self::Api
            | Self::Type
            | Self::Status
            | Self::StatusClass
            | Self::Counted
            | Self::Reason => Needs::Billing,
            Self::ApiVersion | Self::Route | Self::Method | Self::Credential | Self::Environment | Self::Marker => Needs::Routes,
            Self::Source
            | Self::Gateway
            | Self::Country
            | Self::AnsweredBy
            | Self::Cached
            | Self::Subject
            | Self::LatencyClass
            | Self::SizeClass
            | Self::Property(_) => Needs::Raw,
        }
    }

    /// Its value as a string. A property's pointer is bound as the parameter `name`.
    pub(crate) fn sql(&self, name: &str) -> String {
        match self {
            Self::StatusClass => "concat(toString(intDiv(status, 100)), 'xx')".to_owned(),
            Self::Counted => "if(counted, 'true', 'false')".to_owned(),
            Self::Cached => "if(cached, 'true', 'false')".to_owned(),
            Self::LatencyClass => classes("latency_us", &LATENCY_CLASSES, SLOWEST),
            Self::SizeClass => classes("response_bytes", &SIZE_CLASSES, LARGEST),
            Self::Property(_) => format!("properties[{{{name}:String}}]"),
            named => format!("toString({})", named.name()),
        }
    }
}

fn classes(column: &str, classes: &[(&str, u64)], beyond: &str) -> String {
    let each: String = classes.iter().map(|(name, below)| format!("{column} < {below}, '{name}', ")).collect();
    format!("multiIf({each}'{beyond}')")
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dimension {
    type Err = MeteringError;
    fn from_str(text: &str) -> Result<Self, MeteringError> {
        if text.starts_with('/') && text.len() <= 256 {
            return Ok(Self::Property(text.to_owned()));
        }
        NAMED.iter().find(|(name, _)| *name == text).map(|(_, d)| d.clone()).ok_or_else(|| {
            let names: Vec<_> = NAMED.iter().map(|(name, _)| *name).collect();
            let shown: String = text.chars().take(64).collect();
            MeteringError::invalid(
                "dimension",
                format!("`{shown}` is not known; there are {} and JSON pointers of properties (`/model`)", names.join(", ")),
            )
        })
    }
}

impl TryFrom<String> for Dimension {
    type Error = MeteringError;
    fn try_from(text: String) -> Result<Self, MeteringError> {
        text.parse()
    }
}

impl From<Dimension> for String {
    fn from(dimension: Dimension) -> Self {
        dimension.name().to_owned()
    }
}
