//! Every page with made-up data, to look at while drawing: `cargo run -p farebox-portal --example gallery`, then open
//! the printed address. Nothing here is shipped or tested against; the data is invented.

mod console;
mod developer;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use farebox_portal::view::Shell;
use farebox_portal::{assets, security};

type Render = fn() -> String;

fn pages() -> Vec<(&'static str, Render)> {
    let mut pages = developer::pages();
    pages.extend(console::pages());
    pages
}

fn show(path: &str) -> Response {
    match pages().into_iter().find(|(name, _)| *name == path) {
        Some((_, render)) => Html(render()).into_response(),
        None => (StatusCode::NOT_FOUND, "no such page").into_response(),
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let index: String = pages().iter().map(|(name, _)| format!("<li><a href=\"/g/{name}\">{name}</a>")).collect();
    let router = Router::new()
        .route("/", get(|| async move { Html(format!("<ul>{index}</ul>")) }))
        .route("/g/{page}", get(|Path(page): Path<String>| async move { show(&page) }))
        .route("/assets/{hash}/{name}", get(assets::serve))
        .layer(axum::middleware::from_fn(security::headers));
    let listener = tokio::net::TcpListener::bind(std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:0")).await?;
    println!("http://{}/", listener.local_addr()?);
    axum::serve(listener, router).await
}

pub fn portal(title: &str, here: &str) -> Shell {
    Shell { who: Some("Northbank Logistics".into()), csrf: "t".into(), ..Shell::portal(title, "Skylark Weather", here) }
}

pub fn in_console(title: &str, here: &str) -> Shell {
    Shell { who: Some("Ada Marsh".into()), csrf: "t".into(), ..Shell::console(title, "Skylark Weather", here) }
}
