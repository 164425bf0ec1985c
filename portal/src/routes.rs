//! Every route, and who may see it. The router is built from this table alone, so that a test can walk every route
//! with every role.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::Portal;
use crate::context::{Who, guard};
use crate::pages::portal;
use crate::people::Role::{self, Admin, ConsumerAdmin, ConsumerMember, Finance, Owner, Product, Support};
use crate::people::Side;
use crate::{assets, security};

const DEVELOPERS: &[Role] = &[ConsumerAdmin, ConsumerMember];
const DEVELOPER_ADMINS: &[Role] = &[ConsumerAdmin];
const MEMBERS: &[Role] = &[Owner, Admin, Finance, Product, Support];
const ADMINS: &[Role] = &[Owner, Admin];
const MONEY: &[Role] = &[Owner, Admin, Finance];
const KPIS: &[Role] = &[Owner, Admin, Finance, Product];
const HELPERS: &[Role] = &[Owner, Admin, Support];

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub who: Who,
    handler: MethodRouter<Portal>,
}

struct Table(Vec<Route>);

impl Table {
    fn get<H, T>(&mut self, path: &'static str, who: Who, handler: H)
    where
        H: Handler<T, Portal>,
        T: 'static,
    {
        self.0.push(Route { method: Method::GET, path, who, handler: on(MethodFilter::GET, handler) });
    }

    fn post<H, T>(&mut self, path: &'static str, who: Who, handler: H)
    where
        H: Handler<T, Portal>,
        T: 'static,
    {
        self.0.push(Route { method: Method::POST, path, who, handler: on(MethodFilter::POST, handler) });
    }
}

pub fn table() -> Vec<Route> {
    let roles = Who::Roles;
    let (developer, member) = (Who::Anyone(Side::Portal), Who::Anyone(Side::Console));
    let mut t = Table(Vec::new());

    // t.get("/", developer, portal::landing::show);
    // t.get("/sign-up", developer, portal::sign_up::show);
    // t.post("/sign-up", developer, portal::sign_up::submit);
    t.get("/sign-in", developer, portal::sign_in::show);
    t.post("/sign-in", developer, portal::sign_in::submit);
    t.get("/welcome/{token}", developer, portal::sign_in::welcome);
    t.post("/welcome/{token}", developer, portal::sign_in::enter);
    t.get("/rules", developer, portal::rules::show);
    t.post("/sign-out", roles(DEVELOPERS), portal::sign_in::sign_out);
    t.get("/account", roles(DEVELOPERS), portal::account::show);
    t.post("/account/password", roles(DEVELOPERS), portal::account::change_password);

    t.get("/console/sign-in", member, portal::sign_in::show);
    t.post("/console/sign-in", member, portal::sign_in::submit);
    t.get("/console/welcome/{token}", member, portal::sign_in::welcome);
    t.post("/console/welcome/{token}", member, portal::sign_in::enter);
    t.post("/console/sign-out", roles(MEMBERS), portal::sign_in::sign_out);
    t.get("/console/account", roles(MEMBERS), portal::account::show);
    t.post("/console/account/password", roles(MEMBERS), portal::account::change_password);
    t.0
}

/// Everything under the root: pages behind their guards, and the assets.
pub fn router(portal: Portal) -> Router {
    let guarded = table().into_iter().fold(Router::new(), |router, route| {
        let layer = from_fn_with_state((portal.clone(), route.who), guard);
        router.route(route.path, route.handler.layer(layer))
    });
    guarded.route("/assets/{hash}/{name}", axum::routing::get(assets::serve)).layer(from_fn(security::headers)).with_state(portal)
}
