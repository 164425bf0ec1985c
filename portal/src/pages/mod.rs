//! Pages. Each file holds what one page shows, as a struct with everything already readable, and how it is asked for.

pub mod console;
pub mod message;
pub mod portal;
