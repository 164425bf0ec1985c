//! One function for each KPI: typed parameters in, an answer with its definition out. Used by the routes and by the
//! portal's pages alike.

mod activation;
mod compared;
mod conversion;
mod facts;
mod funnel;
mod lifecycle;
mod retention;
mod revenue;
mod setting;
mod stickiness;
mod table;
mod traffic;
mod usage;
mod versions;

pub use activation::{ActivationParams, activation};
pub use compared::{Compared, ComparedAnswer, ComparedConsumer, ComparedParams, compared};
pub use conversion::{ConversionAnswer, ConversionParams, ConversionRow, conversion};
pub use funnel::{FunnelAnswer, FunnelParams, FunnelStep, funnel};
pub use lifecycle::{LifecycleAnswer, LifecycleParams, LifecycleRow, lifecycle};
pub use retention::{Cohorts, RetentionAnswer, RetentionParams, RetentionRow, retention};
pub use revenue::{RevenueAnswer, RevenueParams, RevenueRow, revenue};
pub use setting::{About, Common, Moment, Unit};
pub use stickiness::{StickinessAnswer, StickinessParams, StickinessRow, stickiness};
pub use table::{Table, Tabular};
pub use usage::{TopConsumer, UsageAnswer, UsageParams, UsageRow, usage};
pub use versions::{Deprecated, StillOnIt, VersionRow, VersionsAnswer, VersionsParams, versions};
