use askama::Template;

use crate::view::{Facts, Field, Note, Shell, Table};

/// Who you are and how you sign in; on the developers' side also whose account it is and who else is in it.
#[derive(Debug, Clone, Template)]
#[template(path = "account.html")]
pub struct AccountPage {
    pub shell: Shell,
    /// `` or `/console`.
    pub base: &'static str,
    pub person: Facts,
    pub organisation: Option<Facts>,
    pub people: Option<Table>,
    pub sessions: Table,
    pub password: Field,
    pub problem: Option<Note>,
}
