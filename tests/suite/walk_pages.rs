//! Every page and form with every role, from the portal's own table of routes, so that a new one cannot be forgotten.

use farebox_portal::context::Who;
use farebox_portal::people::session::{Session, cookie_name};
use farebox_portal::people::{Role, Side};
use farebox_portal::routes::{self, Route};
use reqwest::header::LOCATION;
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use crate::harness::Suite;
use crate::walk::World;

/// Whoever may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Nobody,
    /// Signed in here; the consumer's people belong to the one with everything.
    Role(Role),
    /// An administrator of another consumer of this workspace.
    OtherConsumer,
    /// An owner or consumer's administrator of another workspace, with that session, on this workspace's host.
    OtherWorkspace(Side),
}

impl Caller {
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Nobody, Self::OtherConsumer, Self::OtherWorkspace(Side::Portal), Self::OtherWorkspace(Side::Console)];
        all.extend(Role::ALL.map(Self::Role));
        all
    }

    /// The role that this workspace knows the caller in.
    fn role(self) -> Option<Role> {
        match self {
            Self::Role(role) => Some(role),
            Self::OtherConsumer => Some(Role::ConsumerAdmin),
            Self::Nobody | Self::OtherWorkspace(_) => None,
        }
    }
}

/// Pages that confirm what was chosen on another.
const NEED_A_CHOICE: [&str; 4] = ["/plan/change", "/payment/return", "/console/close/confirm", "/console/pipeline/gap"];

struct Walk<'a> {
    suite: &'a Suite,
    world: World,
    elsewhere: World,
}

/// What must become of a call.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    In,
    SignIn,
    Refused,
}

fn fate(who: Who, caller: Caller) -> Fate {
    let Who::Roles(roles) = who else { return Fate::In };
    match caller.role() {
        Some(role) if roles.contains(&role) => Fate::In,
        Some(role) if role.side() == who.side() => Fate::Refused,
        _ => Fate::SignIn,
    }
}

impl Walk<'_> {
    async fn session(&self, caller: Caller) -> Option<Session> {
        let here = &self.world;
        let consumer = |role: Role| (role.side() == Side::Portal).then_some(&here.consumer);
        match caller {
            Caller::Nobody => None,
            Caller::Role(role) => Some(here.sign_in(self.suite, role, consumer(role)).await),
            Caller::OtherConsumer => Some(here.sign_in(self.suite, Role::ConsumerAdmin, Some(&here.other_consumer)).await),
            Caller::OtherWorkspace(Side::Console) => Some(self.elsewhere.sign_in(self.suite, Role::Owner, None).await),
            Caller::OtherWorkspace(Side::Portal) => {
                Some(self.elsewhere.sign_in(self.suite, Role::ConsumerAdmin, Some(&self.elsewhere.consumer)).await)
            }
        }
    }

    /// Under the cookies of both sides: a hostile caller puts a session where it does not belong.
    fn as_session(request: RequestBuilder, session: Option<&Session>) -> RequestBuilder {
        let Some(session) = session else { return request };
        let cookies = [Side::Portal, Side::Console].map(|side| format!("{}={}", cookie_name(side, false), session.token.reveal()));
        request.header("cookie", cookies.join("; "))
    }

    /// What came of it, and the body.
    async fn outcome(&self, what: &str, answer: Response) -> (Fate, StatusCode, String) {
        let status = answer.status();
        let to = answer.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let body = String::from_utf8_lossy(&answer.bytes().await.expect("a body")).into_owned();
        assert!(!status.is_server_error(), "{what}: {status} {body}");
        let signs_in = status.is_redirection() && (to.starts_with("/sign-in") || to.starts_with("/console/sign-in"));
        let fate = match status {
            _ if signs_in => Fate::SignIn,
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Fate::Refused,
            _ => Fate::In,
        };
        (fate, status, body)
    }

    async fn get(&self, route: &Route, caller: Caller) {
        let (what, path) = (format!("GET {} as {caller:?}", route.path), self.world.fill(route.path));
        let session = self.session(caller).await;
        let answer = Self::as_session(self.world.page(Method::GET, &path), session.as_ref()).send().await.expect("an answer");
        let (found, status, body) = self.outcome(&what, answer).await;
        assert_eq!(found, fate(route.who, caller), "{what}: {status}");
        let public = matches!(route.who, Who::Anyone(_));
        match (caller, found) {
            // The provider's name is its portal's title.
            (_, Fate::Refused | Fate::SignIn) => assert!(!body.contains("initech") && !body.contains(&self.world.invoice), "{what}"),
            (Caller::OtherConsumer, Fate::In) if !public => {
                assert!(!body.contains("initech"), "{what} shows another consumer");
                if route.path.contains("{id}") {
                    assert_eq!(status, StatusCode::NOT_FOUND, "{what}");
                }
            }
            (Caller::Role(_), Fate::In) if !public && !NEED_A_CHOICE.contains(&route.path) => {
                assert!(status.is_success() || status.is_redirection(), "{what}: {status}");
            }
            _ => {}
        }
        let sees_amounts = caller.role().is_some_and(|role| role.side() == Side::Portal || routes::may_open("/console/invoices", role));
        assert!(sees_amounts || !self.world.tells_what_was_invoiced(&body), "{what} shows what was invoiced");
    }

    /// A stranger on their own host, with ids of this workspace.
    async fn get_from_elsewhere(&self, route: &Route) {
        let Who::Roles([role, ..]) = route.who else { return };
        let (what, path) = (format!("GET {} of another workspace", route.path), self.world.fill(route.path));
        let consumer = (role.side() == Side::Portal).then_some(&self.elsewhere.consumer);
        let session = self.elsewhere.sign_in(self.suite, *role, consumer).await;
        let answer = Self::as_session(self.elsewhere.page(Method::GET, &path), Some(&session)).send().await.expect("an answer");
        let (_, status, body) = self.outcome(&what, answer).await;
        if route.path.contains("{id}") {
            assert_eq!(status, StatusCode::NOT_FOUND, "{what}");
        }
        self.world.keeps_to_itself(&what, &body);
    }

    async fn post(&self, route: &Route, caller: Caller) {
        let (what, path) = (format!("POST {} as {caller:?}", route.path), self.world.fill(route.path));
        let session = self.session(caller).await;
        let stranger = self.world.sign_in(self.suite, Role::Owner, None).await;
        let send = async |csrf: Option<String>, site: &str| {
            let form: Vec<_> = csrf.into_iter().map(|csrf| ("csrf", csrf)).collect();
            let request = Self::as_session(self.world.page(Method::POST, &path), session.as_ref());
            self.outcome(&what, request.header("sec-fetch-site", site).form(&form).send().await.expect("an answer")).await
        };
        // From another site, without the session's token, or with another session's: never.
        let own = session.as_ref().map(Session::csrf);
        let expected = fate(route.who, caller);
        let forged = if expected == Fate::SignIn { Fate::SignIn } else { Fate::Refused };
        assert_eq!(send(own.clone(), "cross-site").await.0, forged, "{what}, from another site");
        if matches!(route.who, Who::Roles(_)) {
            assert_eq!(send(None, "same-origin").await.0, forged, "{what}, without a token");
            assert_eq!(send(Some(stranger.csrf()), "same-origin").await.0, forged, "{what}, with another's token");
        }
        let (found, status, body) = send(own, "same-origin").await;
        // Who has signed out may be led to where one signs in.
        let signed_out = expected == Fate::In && route.path.ends_with("/sign-out") && found == Fate::SignIn;
        assert!(found == expected || signed_out, "{what}: {found:?}, {status}");
        if caller == Caller::OtherConsumer && route.path.contains("{id}") && expected == Fate::In {
            assert_eq!(status, StatusCode::NOT_FOUND, "{what}");
        }
        if expected != Fate::In {
            assert!(!body.contains("initech"), "{what}");
        }
    }

    async fn key_works(&self) -> bool {
        let keys = self.world.tenant.get(&format!("/api/v1/keys?consumer={}", self.world.consumer)).await;
        keys["data"].as_array().expect("keys").iter().any(|key| key["id"] == self.world.key.as_str() && key["revoked_at"].is_null())
    }
}

/// Each role sees what the table says, a stranger nothing, and a form acts only for the session it was made for.
pub async fn every_page_with_every_role(suite: &Suite) {
    let (world, elsewhere) = tokio::join!(World::new(suite, "pages"), World::new(suite, "elsewhere"));
    let walk = Walk { suite, world, elsewhere };
    let table = routes::table();
    for route in table.iter().filter(|route| route.method == Method::GET) {
        for caller in Caller::all() {
            walk.get(route, caller).await;
        }
        walk.get_from_elsewhere(route).await;
    }
    // Those who may not first: after them everything is as it was.
    let forms: Vec<_> = table.iter().filter(|route| route.method == Method::POST).collect();
    for route in &forms {
        for caller in Caller::all().into_iter().filter(|caller| fate(route.who, *caller) != Fate::In || *caller == Caller::OtherConsumer) {
            walk.post(route, caller).await;
        }
    }
    assert!(walk.key_works().await, "nobody who may not has revoked the key");
    for route in &forms {
        for caller in Caller::all().into_iter().filter(|caller| fate(route.who, *caller) == Fate::In && *caller != Caller::OtherConsumer) {
            walk.post(route, caller).await;
        }
    }
    assert!(!walk.key_works().await, "one who may has revoked it: the walk does send what acts");
    assert_eq!(
        table.len(),
        forms.len() + table.iter().filter(|route| route.method == Method::GET).count(),
        "other methods are walked, too"
    );
}
