//! Connections that prove who is at the other end: a sender by its certificate, a source's own Kafka cluster by TLS and
//! SASL.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use farebox_core::auth::Scope;
use farebox_core::kafka::Kafka;
use farebox_core::{clock, config};
use farebox_engines::artefacts::Artefacts;
use farebox_metering::sources;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rdkafka::producer::FutureRecord;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::{Served, Suite, eventually, free_port};
use crate::tenant::Tenant;

const SOON: Duration = Duration::from_secs(30);

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// Certificate and key in PEM, and the certificate's SHA-256.
fn issued(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    // OpenSSL takes a certificate with its issuer's name for self-signed.
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    (certificate.pem(), key.serialize_pem(), hex::encode(Sha256::digest(certificate.der())))
}

/// A registered certificate is its source; one that is not registered is told its fingerprint; one of another authority,
/// or none, does not get through the handshake; revoked, it is refused.
pub async fn a_client_certificate_is_its_source(suite: &Suite) {
    let tenant = Tenant::new(suite, "certificates").await;
    let (ours, theirs) = (authority(), authority());
    let (server, server_key, _) = issued(&ours, "127.0.0.1");
    let file = |name: &str, text: &str| {
        let path = suite.data.join(name);
        std::fs::write(&path, text).expect("it is written");
        path.display().to_string()
    };
    let port = free_port().expect("a port");
    let settings = [
        ("FAREBOX_HTTP__TLS__LISTEN", format!("127.0.0.1:{port}")),
        ("FAREBOX_HTTP__TLS__CERTIFICATE_FILE", file("server.pem", &server)),
        ("FAREBOX_HTTP__TLS__KEY_FILE", file("server.key", &server_key)),
        ("FAREBOX_HTTP__TLS__CLIENT_CA_FILE", file("clients.pem", &ours.pem())),
    ];
    let _served = Served::start(&suite.data, "certificates", "ingest,access", &settings).await;
    eventually("it listens with TLS", SOON, || async { TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;
    let client = |identity: Option<&(String, String, String)>| {
        let trusted = reqwest::Certificate::from_pem(ours.pem().as_bytes()).expect("a certificate");
        let builder = reqwest::Client::builder().tls_certs_only([trusted]);
        let identity = identity
            .map(|(certificate, key, _)| reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).expect("an identity"));
        identity.into_iter().fold(builder, reqwest::ClientBuilder::identity).build().expect("a client")
    };
    let send = async |client: &reqwest::Client| {
        let event = json!({ "specversion": "1.0", "id": "1", "source": "edge", "type": "farebox.request.v1", "time": clock::now(), "data": { "status": 200 } });
        let response = client.post(format!("https://127.0.0.1:{port}/v1/events")).json(&event).send().await?;
        let status = response.status().as_u16();
        Ok::<_, reqwest::Error>((status, response.json::<Value>().await.unwrap_or_default()))
    };
    let gateway = issued(&ours, "edge-1");
    let known = client(Some(&gateway));
    let (status, problem) = send(&known).await.expect("an answer");
    assert!(status == 401 && problem["detail"].as_str().is_some_and(|d| d.contains(&gateway.2)), "{problem}");

    let new = json!({ "kind": "certificate", "name": "edge-1", "scopes": ["ingest"], "fingerprint": gateway.2 });
    let created: Value =
        tenant.call(Method::POST, "/api/v1/tokens").json(&new).send().await.expect("an answer").json().await.expect("JSON");
    assert!(created["token"].is_null() && created["kind"] == "certificate", "{created}");
    let taken = tenant.call(Method::POST, "/api/v1/tokens").json(&new).send().await.expect("an answer");
    assert_eq!(taken.status(), 409);
    eventually("the certificate is known", SOON, || async { (send(&known).await.expect("an answer").0 == 202).then_some(()) }).await;
    eventually("the call is counted", SOON, || async { (tenant.calls().await == 1).then_some(()) }).await;

    // It lets tell, not ask; one that lets ask is known to decisions, and asks for its own workspace.
    let ask = async |client: &reqwest::Client| {
        let answer = client.get(format!("https://127.0.0.1:{port}/v1/decide/edge-1/orders")).send().await.expect("an answer");
        let decided = answer.headers().contains_key("x-farebox-decision");
        (decided, answer.text().await.expect("a body"))
    };
    let asking = issued(&ours, "edge-2");
    let asks = client(Some(&asking));
    for (client, certificate) in [(&known, &gateway), (&asks, &asking)] {
        let (decided, problem) = ask(client).await;
        assert!(!decided && problem.contains(&certificate.2), "{problem}");
    }
    let new = json!({ "kind": "certificate", "name": "edge-2", "scopes": ["decide"], "fingerprint": asking.2 });
    let created_too = tenant.call(Method::POST, "/api/v1/tokens").json(&new).send().await.expect("an answer");
    assert_eq!(created_too.status(), 201);
    eventually("the certificate decides", SOON, || async { ask(&asks).await.0.then_some(()) }).await;
    let asked = || async { tenant.get("/api/v1/decisions").await["data"].as_array().is_some_and(|rows| !rows.is_empty()).then_some(()) };
    eventually("the decision is its workspace's", SOON, asked).await;

    assert!(send(&client(None)).await.is_err(), "without a certificate");
    assert!(send(&client(Some(&issued(&theirs, "edge-1")))).await.is_err(), "of another authority");
    let path = format!("/api/v1/tokens/{}", created["id"].as_str().expect("an id"));
    assert_eq!(tenant.call(Method::DELETE, &path).send().await.expect("an answer").status(), 204);
    eventually("the certificate is refused", SOON, || async { (send(&known).await.expect("an answer").0 == 401).then_some(()) }).await;
}

const USER: &str = "gateway";
const PASSWORD: &str = "s3cret-of-the-gateway";

/// A broker that takes nobody without TLS and a password.
async fn broker(directory: &Path, port: u16, certificate: &str, key: &str) -> Child {
    let jars = Artefacts::find(None).and_then(|a| a.kafka_jars()).expect("Kafka is there").join("*");
    let controller = free_port().expect("a port");
    let one_line = |pem: &str| pem.trim().replace('\n', "\\n");
    let properties = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners=SASL_SSL://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\nlistener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL\n\
         inter.broker.listener.name=SASL_SSL\nsasl.mechanism.inter.broker.protocol=PLAIN\nsasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512\n\
         listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username=\"{USER}\" password=\"{PASSWORD}\" user_{USER}=\"{PASSWORD}\";\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         ssl.keystore.type=PEM\nssl.keystore.certificate.chain={}\nssl.keystore.key={}\n\
         ssl.truststore.type=PEM\nssl.truststore.certificates={}\nssl.endpoint.identification.algorithm=\n\
         log.dirs={}\nauto.create.topics.enable=false\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\nlog.cleaner.dedupe.buffer.size=8388608\n",
        one_line(certificate),
        one_line(key),
        one_line(certificate),
        directory.join("log").display()
    );
    let settings = directory.join("server.properties");
    std::fs::write(&settings, properties).expect("it is written");
    let java = || {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("kafka.log")).expect("a log");
        let mut java = Command::new("java");
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(&jars);
        java.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).kill_on_drop(true);
        java
    };
    let scram = format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]");
    let format = java()
        .args(["kafka.tools.StorageTool", "format", "--cluster-id", "MkU3OEVBNTcwNTJENDM2Qk", "--add-scram", &scram, "--config"])
        .arg(&settings)
        .status()
        .await;
    assert!(format.expect("Java runs").success(), "see {}", directory.join("kafka.log").display());
    java().arg("kafka.Kafka").arg(&settings).spawn().expect("Java runs")
}

/// A source's topic in a cluster of its own is read over TLS with SCRAM and with PLAIN; the password is never shown, and
/// lies in PostgreSQL encrypted.
pub async fn a_source_has_a_cluster_of_its_own(suite: &Suite) {
    let tenant = Tenant::new(suite, "cluster").await;
    let directory = suite.data.join("cluster");
    std::fs::create_dir_all(&directory).expect("a directory");
    let ours = authority();
    let (certificate, key, _) = issued(&ours, "127.0.0.1");
    let port = free_port().expect("a port");
    let _broker = broker(&directory, port, &format!("{}{}", certificate, ours.pem()), &key).await;
    let sign_in = |password: &str| config::Kafka {
        brokers: format!("127.0.0.1:{port}"),
        tls: true,
        ca: ours.pem(),
        sasl_mechanism: "SCRAM-SHA-512".to_owned(),
        sasl_username: USER.to_owned(),
        sasl_password: password.to_owned(),
        ..config::Kafka::default()
    };
    assert!(!format!("{:?}", sign_in(PASSWORD)).contains(PASSWORD));
    // As Farebox would sign in to its own cluster.
    let cluster = Kafka::connect(&sign_in(PASSWORD)).expect("a client");
    eventually("the broker answers", Duration::from_mins(2), || async { cluster.is_ready().await.then_some(()) }).await;
    assert!(!Kafka::connect(&sign_in("wrong")).expect("a client").is_ready().await, "a wrong password");
    // The same topic name in our own cluster would be another topic.
    let topic = "gateway";
    cluster.create_exact_topics(&[topic]).await.expect("the topic is made");
    let write = async || {
        let log = json!({
            "latency": 12.5, "request": { "method": "GET", "size": 83, "uri": "/v1/orders/7" }, "response": { "status": 200, "size": 475 },
            "route_id": "GET /orders/{id}", "consumer": { "username": "initech" }, "start_time": clock::now().timestamp_millis(),
        });
        let payload = log.to_string();
        cluster
            .producer
            .send(FutureRecord::<str, str>::to(topic).payload(&payload), Duration::from_secs(60))
            .await
            .expect("Kafka acknowledged");
    };
    write().await;
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL answers");
    let source = sources::upsert(&mut conn, &tenant.workspace.id, "edge", "apisix", None, false).await.expect("a source");
    let connect = async |mechanism: &str, password: &str| {
        let body = json!({ "brokers": format!("127.0.0.1:{port}"), "tls": true, "ca": ours.pem(), "sasl": { "mechanism": mechanism, "username": USER, "password": password } });
        tenant.call(Method::PUT, "/api/v1/sources/edge/kafka").json(&body).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(connect("SCRAM-SHA-512", "wrong").await, 204);
    sources::upsert(&mut conn, &tenant.workspace.id, "edge", "apisix", Some(topic), false).await.expect("a source");
    assert_eq!(connect("SCRAM-SHA-512", PASSWORD).await, 204);
    eventually("the first call is counted", SOON, || async { (tenant.calls().await == 1).then_some(()) }).await;
    assert_eq!(connect("PLAIN", PASSWORD).await, 204);
    write().await;
    eventually("the second call is counted, the first not again", SOON, || async { (tenant.calls().await == 2).then_some(()) }).await;

    // Our own cluster may have a topic of this name, too, and another source reads it; but one topic of one cluster is one
    // source's.
    let own = sources::upsert(&mut conn, &tenant.workspace.id, "own", "apisix", Some(topic), false).await;
    assert_eq!(own.expect("it is another topic").kafka_topic.as_deref(), Some(topic));
    let log =
        json!({ "request": { "method": "GET", "uri": "/" }, "response": { "status": 200 }, "start_time": clock::now().timestamp_millis() });
    let (payload, producer) = (log.to_string(), &suite.app.kafka.producer);
    producer.send(FutureRecord::<str, str>::to(topic).payload(&payload), Duration::from_secs(60)).await.expect("Kafka acknowledged");
    eventually("both are read", SOON, || async { (tenant.calls().await == 3).then_some(()) }).await;
    sources::upsert(&mut conn, &tenant.workspace.id, "edge-2", "apisix", None, false).await.expect("a source");
    let body = json!({ "brokers": format!("127.0.0.1:{port}") });
    let connected = tenant.call(Method::PUT, "/api/v1/sources/edge-2/kafka").json(&body).send().await.expect("an answer");
    assert_eq!(connected.status(), 204);
    let taken = sources::upsert(&mut conn, &tenant.workspace.id, "edge-2", "apisix", Some(topic), false).await.expect_err("it is edge's");
    assert!(taken.to_string().contains("another source of its cluster"), "{taken}");
    let back = tenant.call(Method::DELETE, "/api/v1/sources/edge/kafka").send().await.expect("an answer");
    let (status, problem): (_, Value) = (back.status(), back.json().await.expect("JSON"));
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:farebox:problem:topic-taken")), "here it is own's");
    sources::upsert(&mut conn, &tenant.workspace.id, "own", "apisix", None, false).await.expect("a source");

    let shown = tenant.get("/api/v1/sources/edge/kafka").await;
    assert_eq!(shown["sasl"], json!({ "mechanism": "PLAIN", "username": USER }));
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT password_sealed FROM source_kafka WHERE source_id = $1")
        .bind(source.id.as_str())
        .fetch_one(&suite.app.pg)
        .await
        .expect("a row");
    assert!(!sealed.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes()));
    assert_eq!(connect("GSSAPI", PASSWORD).await, 422);
    let reader = tenant.token_with(suite, &[Scope::Read]).await;
    let body = json!({ "brokers": "127.0.0.1:1" });
    let refused = tenant.anonymous(Method::PUT, "/api/v1/sources/edge/kafka").header("x-farebox-token", reader).json(&body);
    assert_eq!(refused.send().await.expect("an answer").status(), 403);
    assert_eq!(tenant.call(Method::DELETE, "/api/v1/sources/edge/kafka").send().await.expect("an answer").status(), 204);
}
