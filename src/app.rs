//! What all requests share: settings, timestamps, mirrors, permissions, and the tasks that keep them up to date.

use std::sync::Arc;

use http::HeaderMap;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::access::{Access, Credentials, Requester};
use crate::feeds::Feeds;
use crate::feeds::sources::Sources;
use crate::history::History;
use crate::history::keeper::{JournalAtStart, Keeper};
use crate::kinto::CollectionKey;
use crate::mirror::refresh::Reader;
use crate::mirror::{Mirrors, recheck};
use crate::phase::{Phase, Relieved};
use crate::purge::Purger;
use crate::remote_settings::attachments::Attachments;
use crate::remote_settings::bundles::Bundles;
use crate::remote_settings::public::Public;
use crate::remote_settings::published::keep_verified;
use crate::remote_settings::signatures::Signatures;
use crate::settings::{Arguments, ChangesMode, Environment, InForce, Reread, Settings, SettingsError};
use crate::timeline::broadcast::Broadcasts;
use crate::timeline::budget::Budget;
use crate::timeline::poll::Poller;
use crate::timeline::resources::Resources;
use crate::timeline::{OnNews, Timeline};
use crate::traces::Traces;
use crate::upstream::Upstream;
use crate::warm::Warm;
use crate::wire::body::Response;
use crate::wire::buffers::{Buffers, Hold, NoRoom};
use crate::wire::dictionaries::Dictionaries;
use crate::wire::lent::{Lent, Loans};
use crate::wire::peer::{Peer, client};
use crate::writes::{Watching, Writes};

/// The state of one process.
#[derive(Debug, Clone)]
pub struct App {
    /// The settings, as a request finds them from its beginning to its end. See [`Self::now`].
    pub settings: Arc<Settings>,
    /// The settings at each moment.
    in_force: InForce,
    /// What is held in memory for clients.
    pub buffers: Arc<Buffers>,
    /// What is lent to clients.
    pub loans: Arc<Loans>,
    /// Timestamps of collections.
    pub timeline: Arc<Timeline>,
    /// Asks for the timestamps that no passing write showed.
    pub poller: Arc<Poller>,
    /// Contents of collections.
    pub mirrors: Arc<Mirrors>,
    /// Contents that clients may still have.
    pub dictionaries: Arc<Dictionaries>,
    /// Who may read what, asked for on the runtime of [`Self::background`].
    pub access: Access,
    /// What anybody may read of the list of timestamps.
    pub public: Arc<Public>,
    /// Where attachments are.
    pub attachments: Arc<Attachments>,
    /// Whether changesets verify.
    pub signatures: Arc<Signatures>,
    /// Many changesets, or attachments, in one file each.
    pub bundles: Arc<Bundles>,
    /// What the next process begins with.
    pub warm: Arc<Warm>,
    /// Writes on their way.
    pub writes: Arc<Writes>,
    /// The history that the sidecar keeps.
    pub history: Arc<History>,
    /// What push services are told.
    pub broadcasts: Arc<Broadcasts>,
    /// Who is told of requests, where somebody is.
    pub traces: Option<Arc<Traces>>,
    /// Who is told of each change.
    pub feeds: Arc<Feeds>,
    /// The runtime of everything that outlives a request or takes long.
    pub background: Handle,
    /// Whether the process serves or is about to end.
    pub phase: watch::Receiver<Phase>,
}

impl App {
    /// Builds the state, and starts what keeps it up to date on the runtime of `background`.
    pub fn start(
        in_force: InForce,
        journal: JournalAtStart,
        background: Handle,
        upstream: Upstream,
        phase: watch::Receiver<Phase>,
        relieved: Relieved,
    ) -> Arc<Self> {
        let settings = in_force.all();
        let resources = match settings.changes_mode {
            ChangesMode::Upstream => Resources::of_upstream(),
            ChangesMode::Auto | ChangesMode::Off => monitored(&settings),
        };
        let access = Access::new(in_force.clone(), upstream);
        let host = settings.kinto.http_host.clone().unwrap_or_default();
        let budget = Budget::new(in_force.clone());
        let watching = Watching::new(in_force.clone(), Arc::clone(&budget));
        let (purger, moved) = (Purger::start(in_force.clone(), &background), watching.moved.clone());
        let on_news: OnNews = Box::new(move |key: &CollectionKey| {
            moved.notify_one();
            purger.changed(key);
        });
        let timeline = Arc::new(Timeline::new(resources, host, on_news));
        let poller = Arc::new(Poller::new(
            timeline.clone(),
            in_force.clone(),
            Arc::clone(&budget),
            Arc::clone(access.upstream().outage()),
        ));
        let reader = Reader::new(access.source(), in_force.clone());
        let mirrors = Arc::new(Mirrors::new(timeline.clone(), reader, background.clone(), in_force.clone()));
        let warm =
            Warm::new(in_force.clone(), timeline.clone(), poller.clone(), mirrors.clone(), access.clone());
        let warm = Arc::new(warm);
        warm.revive();
        background.spawn(warm.clone().keep(phase.clone()));
        let keeper = Arc::new(Keeper::new(&settings, journal, relieved));
        let writes = Writes::new(in_force.clone(), keeper.clone(), access.clone(), timeline.clone());
        background.spawn(writes.clone().run(mirrors.clone(), watching));
        let history = Arc::new(History::new(in_force.clone(), keeper, writes.clone()));
        background.spawn(poller.clone().run(access.upstream().clone()));
        background.spawn(recheck::keep(mirrors.clone(), in_force.clone(), budget));
        let feeds = Feeds::start(
            &in_force,
            Sources::new(
                timeline.clone(),
                poller.clone(),
                mirrors.clone(),
                history.clone(),
                access.clone(),
                in_force.clone(),
            ),
            access.clone(),
            background.clone(),
            phase.clone(),
        );
        let attachments = Arc::new(Attachments::new(&settings));
        let signatures = Arc::new(Signatures::new(&settings, timeline.clone(), background.clone()));
        if signatures.is_on() {
            background.spawn(keep_verified(mirrors.clone(), signatures.clone(), timeline.clone()));
        }
        Arc::new(Self {
            traces: Traces::start(&settings, &background),
            bundles: Arc::new(Bundles::new(&settings, background.clone(), Arc::clone(&attachments))),
            signatures,
            attachments,
            buffers: Buffers::new(in_force.clone()),
            dictionaries: Arc::new(Dictionaries::new(settings.max_dictionaries)),
            loans: Loans::new(in_force.clone()),
            public: Arc::new(Public::new(in_force.clone(), warm.clone())),
            settings,
            in_force,
            timeline,
            poller,
            mirrors,
            access,
            warm,
            writes,
            history,
            broadcasts: Arc::default(),
            feeds: Arc::new(feeds),
            background,
            phase,
        })
    }

    /// The same state under the settings that are in force now.
    pub fn now(self: &Arc<Self>) -> Arc<Self> {
        if self.is_up_to_date() {
            return Arc::clone(self);
        }
        Arc::new(Self { settings: self.in_force.all(), ..Self::clone(self) })
    }

    /// The settings at each moment.
    pub fn in_force(&self) -> &InForce {
        &self.in_force
    }

    fn is_up_to_date(&self) -> bool {
        Arc::ptr_eq(&self.settings, &self.in_force.now())
    }

    /// Reads the settings again from where the process has them from. Requests under way end under those that they began
    /// with; an error changes nothing.
    pub fn reload(&self, arguments: &Arguments, environment: &Environment) -> Result<Reread, SettingsError> {
        let before = self.in_force.all();
        let reread = self.in_force.read_again(arguments, environment)?;
        let settings = self.in_force.all();
        let lists = |settings: &Settings| {
            let changes = &settings.changes;
            (changes.resources.clone(), changes.excluded_collections.clone())
        };
        if lists(&before) != lists(&settings) && settings.changes_mode != ChangesMode::Upstream {
            self.timeline.monitor(monitored(&settings));
            self.poller.monitored_anew();
        }
        if before.cache_size != settings.cache_size {
            self.mirrors.resize();
        }
        if before.auth != settings.auth {
            self.access.upstream().forget_description();
        }
        Ok(reread)
    }
}

fn monitored(settings: &Settings) -> Resources {
    Resources::new(&settings.changes.resources, &settings.changes.excluded_collections)
}

/// What one thread answers with.
#[derive(Debug)]
pub struct Core {
    /// What all threads share.
    pub app: Arc<App>,
    /// This thread's own connections to the upstream.
    pub upstream: Upstream,
    /// Who may read what, asked for through them.
    pub access: Access,
}

impl Core {
    /// A thread's part of `app`, with connections of its own.
    pub fn new(app: Arc<App>, upstream: Upstream) -> Self {
        Self { access: app.access.sibling(upstream.clone()), app, upstream }
    }

    /// The same under the settings that are in force now, where others are.
    pub fn renewed(&self) -> Option<Self> {
        let is_old = !self.app.is_up_to_date();
        is_old.then(|| Self {
            app: self.app.now(),
            upstream: self.upstream.clone(),
            access: self.access.clone(),
        })
    }

    /// Who sent a request with these headers.
    pub fn requester(&self, headers: &HeaderMap) -> Requester {
        self.access.requester(Credentials::of(headers))
    }

    /// What is to be held in memory for a request.
    pub fn hold(&self, headers: &HeaderMap, peer: &Peer) -> Hold {
        self.app.buffers.hold(client(peer, headers, &self.app.settings))
    }

    /// The answer; what it shares with others is lent to the client.
    pub fn lent(&self, mut answer: Response, headers: &HeaderMap, peer: &Peer) -> Result<Response, NoRoom> {
        let Some(lent) = answer.extensions_mut().remove::<Arc<Lent>>() else { return Ok(answer) };
        let loan = self.app.loans.lend(client(peer, headers, &self.app.settings), lent)?;
        Ok(answer.map(|body| body.lent(loan)))
    }
}
