//! The API in this process: the real schema, front, engine and read models, mostly over the log in memory.

mod alerts;
mod authorisation;
mod contracts;
mod controls;
mod erasure;
mod event_types;
mod explanation;
mod front;
pub(crate) mod full;
mod gone;
mod history;
mod hostile;
mod issuers;
mod limits;
pub(crate) mod live;
mod operations;
mod overview;
mod publishing;
mod rate_limits;
mod session_faults;
mod sessions;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use serde_json::{Value, json};
use tidings::actors::{self, Engine, Ports, Retention, Running};
use tidings::authentication::{self, KeyRing, password, totp};
use tidings::clock::{Clock, SeededClock};
use tidings::domain::api_key::ApiKey;
use tidings::domain::event::{ApiKeyIssued, TenantCreated, UserAdded};
use tidings::domain::id::TenantId;
use tidings::domain::outcome::{Exchange, Response};
use tidings::domain::scope::Scope;
use tidings::domain::secret::Secret;
use tidings::domain::tenant::Command;
use tidings::domain::time::Timestamp;
use tidings::event_store::{self, EventStore, Log, MemoryStore, Options, PostgresStore, SqliteStore, postgres};
use tidings::execute::Meta;
use tidings::execute::ledger::Ledger;
use tidings::execute::vault::{Binding, KeyBytes, OperatorKeys, Vault};
use tidings::key_store::{KeyStore, MemoryKeys};
use tidings::outbound::{self, Fetch, HttpClient, Request, Transport};
use tidings::projections::{Followers, ReadModels};
use tidings::rate_limit::{self, RateLimits};
use tidings::{graphql, http};

use crate::event_store::postgres::database::Fresh;
use crate::support::server::Kind;

/// An endpoint that the gate lets through; nothing is really sent to it.
const URL: &str = "https://127.0.0.1:9443/hook";

/// Everybody's password.
const PASSWORD: &str = "correct horse battery staple";

/// Every endpoint says 200.
struct Agreeable;

#[async_trait]
impl Transport for Agreeable {
    async fn post(&self, _: Request) -> Exchange {
        Exchange {
            latency_ms: 7,
            result: Ok(Response { status: 200, preview: "thanks".into(), ..Response::default() }),
        }
    }
}

struct Api {
    address: SocketAddr,
    engine: Engine,
    read_models: ReadModels,
    vault: Arc<Vault>,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    ready: Arc<AtomicBool>,
    front: http::AppState,
    client: reqwest::Client,
    tenant: TenantId,
    /// A key of `tenant` that may do everything.
    key: String,
    _running: Running,
    _watchers: tokio::task::JoinSet<()>,
    /// Until a test lets the read models stand still.
    followers: Option<Followers>,
    _folder: tempfile::TempDir,
    _log_folder: Option<tempfile::TempDir>,
    _database: Option<Fresh>,
}

/// What a test may want otherwise.
#[derive(Default)]
struct Settings {
    auth: authentication::Config,
    /// `None`: nothing is reached.
    fetch: Option<Arc<dyn Fetch>>,
    live: http::LiveConfig,
    limits: rate_limit::Config,
    /// `None`: every endpoint says 200.
    transport: Option<Arc<dyn Transport>>,
    /// `None`: sealed rows in memory.
    key_store: Option<Arc<dyn KeyStore>>,
}

/// Takes away what an answer says of its cost, which is not what most tests are about.
fn without_cost(answer: &mut Value) {
    answer.as_object_mut().unwrap().remove("extensions");
}

fn operator_keys() -> OperatorKeys {
    OperatorKeys::new(KeyBytes::new([7; 32]), [])
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SeededClock::new(Timestamp::from_ms(1_763_894_415_000), 1))
}

impl Api {
    async fn start() -> Self {
        Self::over(Arc::new(MemoryStore::new(1))).await
    }

    /// Over a log in a database of that kind.
    async fn on(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let store = SqliteStore::open(Options::at(folder.path().join("log.db"))).await.unwrap();
                let mut api = Self::over(Arc::new(store)).await;
                api._log_folder = Some(folder);
                api
            }
            Kind::Postgres => {
                let database = Fresh::empty().await;
                let options = postgres::Options::at(database.url.as_str()).unwrap();
                let store = PostgresStore::open(options).await.unwrap();
                let mut api = Self::over(Arc::new(store)).await;
                api._database = Some(database);
                api
            }
        }
    }

    async fn over(store: Arc<dyn EventStore>) -> Self {
        Self::over_with(store, http::LiveConfig::default()).await
    }

    async fn over_with(store: Arc<dyn EventStore>, live: http::LiveConfig) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        Self::build(store, clock(), Settings { live, ..Settings::default() }).await
    }

    /// With budgets of that size.
    async fn limited(limits: rate_limit::Config) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        Self::build(Arc::new(MemoryStore::new(1)), clock(), Settings { limits, ..Settings::default() }).await
    }

    async fn with(
        store: Arc<dyn EventStore>,
        clock: Arc<dyn Clock>,
        auth: authentication::Config,
        fetch: Arc<dyn Fetch>,
        live: http::LiveConfig,
    ) -> Self {
        Self::build(store, clock, Settings { auth, fetch: Some(fetch), live, ..Settings::default() }).await
    }

    async fn build(store: Arc<dyn EventStore>, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let Settings { auth, fetch, live, limits, transport, key_store } = settings;
        let nowhere = || Arc::new(HttpClient::new(&outbound::Config::default()).unwrap()) as Arc<dyn Fetch>;
        let fetch = fetch.unwrap_or_else(nowhere);
        let log = Log::start(store, event_store::Config::default()).await.unwrap();
        let key_store = key_store.unwrap_or_else(|| Arc::new(MemoryKeys::default()));
        let vault = Vault::open(key_store, operator_keys(), &*clock).await.unwrap();
        let egress =
            outbound::Config { allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()], ..outbound::Config::default() };
        let gate = HttpClient::new(&egress).unwrap().gate().clone();
        let folder = tempfile::tempdir().unwrap();
        let read_models = ReadModels::open(&folder.path().join("read-models")).await.unwrap();
        let followers = read_models.follow(log.clone());
        // Receipts are waited for.
        let config = actors::Config { purge_every_ms: 0, ..actors::Config::default() };
        let (vault, transport) = (Arc::new(vault), transport.unwrap_or_else(|| Arc::new(Agreeable)));
        let sealed = Arc::clone(&vault);
        let ports = Ports { transport, gate, candidates: Some(Arc::new(read_models.clone())) };
        let running =
            actors::start(log.clone(), Arc::clone(&clock), vault, ports, config, Retention::default()).await.unwrap();
        let (ledger, watchers) = Ledger::follow(log.clone(), Arc::clone(&clock));
        let keys = Arc::new(KeyRing::new(authentication::Ports {
            config: auth,
            read_models: read_models.clone(),
            engine: running.engine.clone(),
            vault: Arc::clone(&sealed),
            fetch,
            clock: Arc::clone(&clock),
        }));
        let schema = graphql::schema(graphql::SchemaContext {
            ledger,
            engine: running.engine.clone(),
            read_models: read_models.clone(),
            log,
            clock: Arc::clone(&clock),
            keys: Arc::clone(&keys),
            limits: RateLimits::new(limits),
        });
        let ready = Arc::new(AtomicBool::new(true));
        let state = http::AppState::new(schema, read_models.clone(), Arc::clone(&clock), Arc::clone(&ready));
        let state = state.with_live(&live);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = http::Bounds {
            max_connections: 4_096,
            max_connections_per_address: 4_096,
            proxies: http::TrustedProxies::default(),
        };
        tokio::spawn(http::serve(listener, http::router(state.clone()), bounds, std::future::pending()));
        let engine = running.engine.clone();
        let tenant = clock.tenant_id();
        let mut api = Self {
            address,
            engine,
            read_models,
            vault: sealed,
            keys,
            clock,
            ready,
            front: state,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            tenant,
            key: String::new(),
            _running: running,
            followers: Some(followers),
            _watchers: watchers,
            _folder: folder,
            _log_folder: None,
            _database: None,
        };
        api.tenant(tenant, "acme").await;
        api.key = api.key(tenant, &Scope::ALL).await;
        api.command(tenant, Command::SetUnattendedKeys(true)).await;
        api
    }

    async fn tenant(&self, tenant: TenantId, slug: &str) {
        let (name, profile) = (slug.to_owned(), "standard-v1".to_owned());
        let created = TenantCreated { tenant, name, slug: slug.into(), profile };
        self.command(tenant, Command::Create(created)).await;
    }

    /// A new key of that tenant with those scopes.
    async fn key(&self, tenant: TenantId, scopes: &[Scope]) -> String {
        let key = ApiKey::generate(self.clock.api_key_id(), &self.clock.random_bytes());
        let (name, scopes) = ("test".to_owned(), scopes.to_vec());
        let issued = ApiKeyIssued { key: key.id(), name, hash: self.keys.hash(&key), scopes, expires_at: None };
        self.command(tenant, Command::IssueApiKey(issued)).await;
        key.expose().to_owned()
    }

    /// Somebody of that tenant who may log in, with [`PASSWORD`]; what makes their codes.
    async fn user(&self, tenant: TenantId, name: &str, scopes: &[Scope]) -> Secret {
        let clock = &*self.clock;
        let codes = totp::secret(&clock.random_bytes());
        let hash = password::hash(PASSWORD, &clock.random_bytes());
        let (user, password, totp) = (clock.user_id(), clock.secret_id(), clock.secret_id());
        self.vault.store(&Binding::password(tenant, user, password), &hash, clock).await.unwrap();
        self.vault.store(&Binding::one_time_codes(tenant, user, totp), &codes, clock).await.unwrap();
        let added = UserAdded { user, name: name.into(), scopes: scopes.to_vec(), password, totp };
        self.command(tenant, Command::AddUser(added)).await;
        codes
    }

    async fn command(&self, tenant: TenantId, command: Command) {
        let done = self.engine.tenant(tenant, command, Meta::system()).await.unwrap();
        assert!(self.read_models.wait_for(done.position.unwrap(), std::time::Duration::from_secs(30)).await);
    }

    /// From now on the read models show how things were.
    async fn hold_read_models(&mut self) {
        if let Some(followers) = self.followers.take() {
            followers.stop().await;
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn post(&self, key: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        let request = self.client.post(self.url("/graphql")).header("content-type", "application/json");
        request.bearer_auth(key).body(body)
    }

    fn anonymous(&self, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.client.post(self.url("/graphql")).header("content-type", "application/json").body(body)
    }

    async fn answer(&self, key: &str, query: &str, variables: &Value) -> Value {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let answer = self.post(key, body).send().await.unwrap();
        let mut answer = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        without_cost(&mut answer);
        answer
    }

    /// The `data` of an answer that must be without errors.
    async fn data(&self, query: &str, variables: Value) -> Value {
        let mut answer = self.answer(&self.key, query, &variables).await;
        assert!(answer.get("errors").is_none(), "{answer}");
        answer["data"].take()
    }
}
