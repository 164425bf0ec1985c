use askama::Template;

use crate::view::{Code, Facts, Field, Note, Shell, Table};

#[derive(Debug, Clone, Template)]
#[template(path = "portal/keys.html")]
pub struct KeysPage {
    pub shell: Shell,
    pub live: usize,
    pub revoked: usize,
    pub showing_revoked: bool,
    pub table: Table,
    pub may_change: bool,
}

/// The form for a new key: a page of its own, which the list also shows as a dialog.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/key_new.html")]
pub struct NewKeyPage {
    pub shell: Shell,
    pub name: Field,
    pub problem: Option<Note>,
}

/// The one time a key is shown.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/key_made.html")]
pub struct KeyMadePage {
    pub shell: Shell,
    pub key: Code,
    pub facts: Facts,
    pub command: Code,
}

/// What revoking means, before it is done.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/key_revoke.html")]
pub struct RevokeKeyPage {
    pub shell: Shell,
    pub id: String,
    pub name: String,
    pub facts: Facts,
    pub warning: Option<Note>,
}
