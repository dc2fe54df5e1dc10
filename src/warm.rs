//! What the next process begins with: the list of timestamps and the mirrors of what everybody may read, on disk.
//!
//! ```text
//! index            the list, what of it anybody may read, and for each mirror: its file, when it was read, since when it is
//!                  known to be public
//! 0123…cdef        a content, named by its checksum: a new content is a new file, so the index is always whole
//! ```
//!
//! Whatever is read at start is old until Kinto was asked: while Kinto is down it is given out as such, and once Kinto
//! answers it is compared first. A file that is not believed costs nothing but itself, and a disk that takes no more
//! costs the next start alone.
//!
//! SECURITY: mirrors that not everybody may read are not written, and nobody's credentials or permissions are. As soon as
//! everybody may not read a collection any more, its file is removed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

mod folder;
mod index;

use crate::access::{Access, PublicSince};
use crate::complaint::Complaint;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::content::Content;
use crate::mirror::{Mirrors, State};
use crate::phase::Phase;
use crate::settings::{InForce, Settings};
use crate::timeline::Timeline;
use crate::timeline::poll::Poller;
use folder::{Folder, NotKept, content_name, is_content};
use index::{Index, KeptMirror, moment, since, time};

/// The name of the folder in `sidecar.state_dir`.
const FOLDER: &str = "kinto-sidecar.warm";

const INDEX: &str = "index";

/// The most that an index may take, in bytes.
const INDEX_BYTES: u64 = 64 << 20;

/// The first pause between two looks at what changed, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long after a change of permissions that is looked at.
const SOON: Duration = Duration::from_millis(500);

/// How many bytes of contents are written in one turn, as long as the process goes on.
const TURN_BYTES: u64 = 16 << 20;

/// How often it is written that nothing changed.
const SAME: Duration = Duration::from_secs(60);

/// Keeps on disk what the next process begins with.
#[derive(Debug)]
pub struct Warm {
    folder: Option<Folder>,
    upstream: String,
    in_force: InForce,
    timeline: Arc<Timeline>,
    poller: Arc<Poller>,
    mirrors: Arc<Mirrors>,
    access: Access,
    written: Mutex<Written>,
    /// Why nothing could be written when that was last tried.
    trouble: ArcSwapOption<Complaint>,
    /// What of the list anybody may read, where somebody looks at that; and the permissions that it was found with.
    public: ArcSwapOption<(HashSet<CollectionKey>, u64)>,
    /// What all files take.
    bytes: AtomicU64,
    /// When the index was last written, in milliseconds since 1970; zero for never.
    saved: AtomicU64,
}

/// What was written last.
#[derive(Debug, Default)]
struct Written {
    contents: HashMap<CollectionKey, WrittenContent>,
    index: Index,
    at: Option<Instant>,
}

#[derive(Debug)]
struct WrittenContent {
    digest: u64,
    file: String,
    bytes: u64,
    at: Instant,
    /// When the content was last read from the upstream.
    read: Instant,
}

/// Why nothing could be kept where the settings want it, as far as can be seen without keeping anything.
pub(crate) fn trouble_of(settings: &Settings) -> Option<Complaint> {
    let folder = folder_of(settings)?;
    let error = folder.can_be_written().err()?;
    Some(Complaint::of_state(folder.path(), &error))
}

fn folder_of(settings: &Settings) -> Option<Folder> {
    settings.state_dir.as_ref().map(|directory| Folder::new(directory.join(FOLDER)))
}

// === impl Warm ===

impl Warm {
    /// What the process that is about to begin keeps, and is given by the one before it.
    pub fn new(
        in_force: InForce,
        timeline: Arc<Timeline>,
        poller: Arc<Poller>,
        mirrors: Arc<Mirrors>,
        access: Access,
    ) -> Self {
        let settings = in_force.all();
        Self {
            folder: folder_of(&settings),
            upstream: settings.upstream.to_string(),
            in_force,
            timeline,
            poller,
            mirrors,
            access,
            written: Mutex::default(),
            trouble: ArcSwapOption::empty(),
            public: ArcSwapOption::empty(),
            bytes: AtomicU64::new(0),
            saved: AtomicU64::new(0),
        }
    }

    /// What it takes on disk, and how long ago it was last written; `None` where nothing is kept.
    pub fn kept(&self) -> Option<(u64, Duration)> {
        let saved = Some(self.saved.load(Relaxed)).filter(|saved| *saved > 0)?;
        Some((self.bytes.load(Relaxed), since(saved)))
    }

    /// Why nothing could be written when that was last tried.
    pub fn trouble(&self) -> Option<Arc<Complaint>> {
        self.trouble.load_full()
    }

    /// What of the list anybody may read, and the permissions that this was found with; at first as the process before this
    /// one knew it.
    pub fn public(&self) -> Option<Arc<(HashSet<CollectionKey>, u64)>> {
        self.public.load_full()
    }

    /// Takes note of that.
    pub fn note_public(&self, keys: HashSet<CollectionKey>, permissions: u64) {
        self.public.store(Some(Arc::new((keys, permissions))));
    }

    /// Takes what the process before this one kept. Nothing was asked of the upstream before that.
    pub fn revive(&self) {
        let Some(folder) = &self.folder else { return };
        let index = match self.index(folder) {
            Ok(index) => index,
            Err(NotKept::Absent(_)) => return,
            Err(why) => {
                tracing::warn!(folder = %folder.path().display(), "what was kept for a restart is not used: {why}");
                return;
            }
        };
        let good = moment(index.good);
        if let Some(list) =
            index.list.as_ref().filter(|_| good.elapsed() < self.in_force.now().stale_if_error)
        {
            self.timeline.revive(list, good);
            if let Some(public) = &index.public {
                let keys = public.iter().map(|(bucket, collection)| CollectionKey::new(bucket, collection));
                self.note_public(keys.collect(), self.access.version());
            }
        }
        let mut written = self.written.lock();
        let mut room = self.in_force.now().cache_size;
        let mut failures = Vec::new();
        for kept in &index.mirrors {
            let key = CollectionKey::new(&kept.bucket, &kept.collection);
            match content(folder, &kept.file, room) {
                Ok((content, bytes)) => {
                    room = room.saturating_sub(bytes);
                    let read = moment(kept.read);
                    let (digest, file) = (content.digest(), kept.file.clone());
                    let known = WrittenContent { digest, file, bytes, at: Instant::now(), read };
                    written.contents.insert(key.clone(), known);
                    let metadata = kept.metadata.map(Timestamp);
                    self.access.revive(&key, PublicSince { metadata, asked: moment(kept.asked) });
                    self.mirrors.revive(&key, content, read);
                }
                Err(why) => failures.push(why),
            }
        }
        if let Some(why) = failures.first() {
            let (folder, count) = (folder.path().display(), failures.len());
            tracing::warn!(%folder, count, "some of what was kept for a restart is not used: {why}");
        }
        let (mirrors, age) = (written.contents.len(), good.elapsed().as_secs());
        tracing::info!(mirrors, age, "began with what was kept for a restart");
    }

    fn index(&self, folder: &Folder) -> Result<Index, NotKept> {
        let index = folder.read(INDEX, INDEX_BYTES)?;
        let index: Index = serde_json::from_slice(&index).map_err(|_| NotKept::Foreign(INDEX.to_owned()))?;
        if index.upstream != self.upstream {
            return Err(NotKept::Foreign(format!("the {INDEX} of {}", index.upstream)));
        }
        Ok(index)
    }

    /// Writes now and then what changed, until the process is about to end.
    pub async fn keep(self: Arc<Self>, mut phase: watch::Receiver<Phase>) {
        if self.folder.is_none() {
            return;
        }
        let mut permissions = self.access.subscribe();
        let mut pause = FIRST_PAUSE;
        loop {
            let most = tokio::select! {
                () = tokio::time::sleep(pause) => {
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    TURN_BYTES
                }
                // What is public no more is not to be found here either.
                changed = permissions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(SOON).await;
                    permissions.mark_unchanged();
                    0
                }
                () = async { drop(phase.wait_for(|phase| *phase >= Phase::Leaving).await) } => return,
            };
            self.save_aside(most, false).await;
        }
    }

    /// Writes all that changed: the process is about to end, and no other one has taken over.
    pub async fn keep_last(self: Arc<Self>) {
        self.save_aside(u64::MAX, true).await;
    }

    async fn save_aside(self: &Arc<Self>, most: u64, is_last: bool) {
        let this = Arc::clone(self);
        // One that panics has written nothing.
        let _ = spawn_blocking(move || this.save(most, is_last)).await;
    }

    fn save(&self, most: u64, is_last: bool) {
        let Some(folder) = &self.folder else { return };
        let mut written = self.written.lock();
        let saved = folder.claim().and_then(|is_ours| {
            if is_ours { self.save_to(folder, &mut written, most, is_last) } else { Ok(()) }
        });
        match saved {
            Ok(()) => self.trouble.store(None),
            Err(error) => {
                metrics::counter!("kinto_sidecar_state_failures_total").increment(1);
                let complaint = Complaint::of_state(folder.path(), &error);
                if self.trouble().is_none() {
                    tracing::warn!("{complaint}");
                }
                self.trouble.store(Some(Arc::new(complaint)));
            }
        }
    }

    /// What of the list anybody may read, unless permissions have changed since.
    fn public_names(&self) -> Option<Vec<(String, String)>> {
        let public = self.public().filter(|public| public.1 == self.access.version())?;
        let mut names: Vec<_> =
            public.0.iter().map(|key| (key.bucket.to_string(), key.collection.to_string())).collect();
        names.sort_unstable();
        Some(names)
    }

    fn save_to(
        &self,
        folder: &Folder,
        written: &mut Written,
        most: u64,
        is_last: bool,
    ) -> std::io::Result<()> {
        let mut public: Vec<_> = self
            .mirrors
            .all()
            .iter()
            .filter_map(|mirror| {
                // What is published, where that is not the newest.
                let (key, state) = (mirror.clock().key().clone(), mirror.good().or_else(|| mirror.state())?);
                let public = self.access.public(&key)?;
                (state.began.elapsed() < self.in_force.now().stale_if_error).then_some((key, state, public))
            })
            .collect();
        let keys: HashSet<_> = public.iter().map(|(key, ..)| key.clone()).collect();
        written.contents.retain(|key, _| keys.contains(key));
        // What was not written for longest comes first.
        public.sort_by_cached_key(|(key, ..)| {
            (written.contents.get(key).map(|content| content.at), key.clone())
        });
        let (mut turn, mut total) = (0, 0);
        let mut failure = None;
        let mut mirrors = Vec::with_capacity(public.len());
        for (key, state, public) in public {
            if turn <= most
                && let Err(error) = write_content(folder, written, &key, &state, &mut turn)
            {
                failure.get_or_insert(error);
            }
            let Some(content) = written.contents.get(&key) else { continue };
            if total + content.bytes > self.in_force.now().cache_size {
                continue;
            }
            total += content.bytes;
            mirrors.push(KeptMirror {
                bucket: key.bucket.to_string(),
                collection: key.collection.to_string(),
                file: content.file.clone(),
                read: time(content.read),
                metadata: public.metadata.map(|metadata| metadata.0),
                asked: time(public.asked),
            });
        }
        mirrors.sort_unstable_by(|one, other| {
            (&one.bucket, &one.collection).cmp(&(&other.bucket, &other.collection))
        });
        let good = Timestamp::now().back(Duration::from_secs(self.poller.behind_for())).0;
        let index = Index {
            upstream: self.upstream.clone(),
            good,
            list: self.timeline.monitored().to_keep(),
            public: self.public_names(),
            mirrors,
        };
        let is_due = is_last || written.at.is_none_or(|at| at.elapsed() >= SAME);
        if is_due || !index.says_the_same(&written.index) {
            let line = serde_json::to_vec(&index)?;
            total += folder.write(INDEX, &[&line])?;
            self.bytes.store(total, Relaxed);
            self.saved.store(Timestamp::now().0, Relaxed);
            let files: HashSet<&str> = index.mirrors.iter().map(|mirror| &*mirror.file).collect();
            folder.keep_only(|name| files.contains(name))?;
            written.contents.retain(|_, content| files.contains(&*content.file));
            written.index = index;
            written.at = Some(Instant::now());
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Writes a content, unless that is on disk; `turn` counts what is written.
fn write_content(
    folder: &Folder,
    written: &mut Written,
    key: &CollectionKey,
    state: &State,
    turn: &mut u64,
) -> std::io::Result<()> {
    let digest = state.content.digest();
    if let Some(known) = written.contents.get_mut(key).filter(|known| known.digest == digest) {
        known.read = state.began;
        return Ok(());
    }
    let Some((line, rows)) = state.content.to_keep() else { return Ok(()) };
    let parts: [&[u8]; 3] = [&line, b"\n", &rows];
    let file = content_name(&parts);
    let bytes = folder.write(&file, &parts)?;
    *turn += bytes;
    let content = WrittenContent { digest, file, bytes, at: Instant::now(), read: state.began };
    written.contents.insert(key.clone(), content);
    Ok(())
}

/// A content, and what its file takes.
fn content(folder: &Folder, file: &str, most: u64) -> Result<(Content, u64), NotKept> {
    let foreign = || NotKept::Foreign(file.to_owned());
    if !is_content(file) {
        return Err(foreign());
    }
    let body = folder.read(file, most)?;
    let end = body.iter().position(|byte| *byte == b'\n').ok_or_else(foreign)?;
    let content = Content::revive(&body.slice(..end), body.slice(end + 1..)).ok_or_else(foreign)?;
    Ok((content, body.len() as u64))
}
