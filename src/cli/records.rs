//! Commands that need the records of a local instance.

use farebox_core::App;
use farebox_core::config::Config;
use farebox_core::workspace;

use crate::instance::Find;

pub async fn login_link(find: &Find) -> anyhow::Result<()> {
    let credentials = find.credentials()?;
    let app = App::connect(Config::load(&find.data.join("farebox.toml"))?).await?;
    let mut conn = app.pg.acquire().await?;
    let workspace = workspace::by_name(&mut conn, &credentials.workspace)
        .await?
        .ok_or_else(|| anyhow::anyhow!("workspace {} is not there", credentials.workspace))?;
    let link = farebox_portal::entry::owner_login_link(&mut conn, &workspace.id, crate::up::OWNER).await?;
    say!("{}{}", credentials.base_url, link.path);
    Ok(())
}
