//! Records as documents, each with the names of its earlier versions.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::access::Requester;
use crate::app::Core;
use crate::aside;
use crate::endpoints::list;
use crate::error::Error;
use crate::feeds::document;
use crate::feeds::params::refused;
use crate::feeds::revised::Revisions;
use crate::feeds::snapshot::FeedRow;
use crate::journal::{Link, Revision};
use crate::kinto::seq::Seq;
use crate::kinto::{CollectionKey, Timestamp};
use crate::query::Parameters;
use crate::upstream::kinto::{KintoError, NewRow, Source, in_list};
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;

/// How many documents are made at once.
const AT_ONCE: usize = 50;
/// What a document takes beside the record and the names of its versions, in bytes.
const PIECES: usize = 256;
/// How often documents are read again because somebody wrote them meanwhile.
const TRIES: usize = 5;

/// A version that is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    id: String,
    /// The newest one where there is none.
    rev: Option<String>,
}

/// Makes copies of a collection's records.
pub(super) struct Copies<'c> {
    core: &'c Core,
    key: &'c CollectionKey,
    revisions: &'c Revisions,
    requester: &'c Requester,
    parameters: Parameters,
}

/// Some records, and their chains, each from its newest version on.
struct Found {
    rows: HashMap<String, FeedRow>,
    chains: HashMap<String, Vec<Link>>,
}

impl Found {
    fn chain(&self, id: &str) -> &[Link] {
        self.chains.get(id).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Asked {
    /// Reads the `docs` of a body.
    pub(super) fn of_body(body: Option<&Value>) -> Result<Vec<Self>, Error> {
        let docs = body.and_then(|object| object.get("docs")?.as_array());
        let docs = docs.ok_or_else(|| refused("Missing JSON list of 'docs'."))?;
        let asked = docs.iter().map(Self::read).collect::<Option<Vec<_>>>();
        asked.ok_or_else(|| refused("Each of 'docs' has to have an 'id'."))
    }

    /// Reads an item of `docs`.
    fn read(item: &Value) -> Option<Self> {
        let id = item.get("id")?.as_str()?.to_owned();
        Some(Self { id, rev: item.get("rev").and_then(Value::as_str).map(str::to_owned) })
    }
}

impl<'c> Copies<'c> {
    /// Copies in the way that a query asks for: `revs`, `latest`, `open_revs`.
    pub(super) fn new(
        core: &'c Core,
        key: &'c CollectionKey,
        revisions: &'c Revisions,
        requester: &'c Requester,
        query: Option<&str>,
    ) -> Result<Self, Error> {
        Ok(Self { core, key, revisions, requester, parameters: Parameters::parse(query)? })
    }

    fn is_true(&self, name: &str) -> bool {
        self.parameters.single(name) == Some("true")
    }

    /// The answer to `_bulk_get`.
    pub(super) async fn many(&self, asked: Vec<Asked>, hold: &mut Hold) -> Result<Vec<Bytes>, Error> {
        let mut chunks = vec![Bytes::from_static(b"{\"results\":[")];
        for (number, asked) in asked.chunks(AT_ONCE).enumerate() {
            let found = self.find(asked).await?;
            for (place, asked) in asked.iter().enumerate() {
                let comma = if number + place > 0 { "," } else { "" };
                let begin = format!(r#"{comma}{{"id":{},"docs":["#, json!(asked.id));
                if let Some(row) = self.find_row(&found, &asked.id, asked.rev.as_deref()) {
                    let copy = self.copy(&found, row, hold).await?;
                    chunks.push((begin + r#"{"ok":"#).into());
                    chunks.extend([copy, Bytes::from_static(b"}]}")]);
                } else {
                    let (id, rev) = (&asked.id, asked.rev.as_deref().unwrap_or("undefined"));
                    let error = json!({"id": id, "rev": rev, "error": "not_found", "reason": "missing"});
                    chunks.push(format!("{begin}{}]}}", json!({ "error": error })).into());
                }
                hold.grow(chunks.last().map_or(0, Bytes::len) + PIECES)?;
            }
        }
        chunks.push(Bytes::from_static(b"]}\n"));
        Ok(chunks)
    }

    /// The answer to `{id}?open_revs=…`.
    pub(super) async fn one(
        &self,
        id: &str,
        headers: &HeaderMap,
        hold: &mut Hold,
    ) -> Result<Response, Error> {
        let open_revs = self.parameters.single("open_revs").unwrap_or_default();
        let wanted: Vec<Option<String>> = if open_revs == "all" {
            vec![None]
        } else {
            let wanted: Result<BTreeSet<String>, _> = serde_json::from_str(open_revs);
            let wanted =
                wanted.map_err(|_| refused("`open_revs` is neither `all` nor a JSON list of texts."))?;
            wanted.into_iter().map(Some).collect()
        };
        let ask = |rev: &Option<String>| Asked { id: id.to_owned(), rev: rev.clone() };
        let found = self.find(&wanted.iter().map(ask).collect::<Vec<_>>()).await?;
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let is_mixed = accept.contains("multipart/mixed") && !accept.contains("application/json");
        let boundary = Uuid::new_v4().simple().to_string();
        let mut text = if is_mixed { Vec::new() } else { b"[".to_vec() };
        let mut is_given = false;
        for rev in wanted {
            let (part, mark) = match self.find_row(&found, id, rev.as_deref()) {
                // Whatever it is called, there is one version at most, the newest.
                Some(_) if is_given => continue,
                Some(row) => {
                    is_given = true;
                    let copy = self.copy(&found, row, hold).await?;
                    let part = if is_mixed { copy } else { [br#"{"ok":"#, &*copy, b"}"].concat().into() };
                    (part, "")
                }
                None => {
                    let missing = json!({"missing": rev.as_deref().unwrap_or("all")});
                    (missing.to_string().into(), "; error=\"true\"")
                }
            };
            if is_mixed {
                let head = format!("--{boundary}\r\nContent-Type: application/json{mark}\r\n\r\n");
                text.extend_from_slice(head.as_bytes());
                text.extend_from_slice(&part);
                text.extend_from_slice(b"\r\n");
            } else {
                if text.len() > 1 {
                    text.push(b',');
                }
                text.extend_from_slice(&part);
            }
        }
        if is_mixed {
            text.extend_from_slice(format!("--{boundary}--").as_bytes());
        } else {
            text.push(b']');
        }
        hold.grow(text.len())?;
        let mut response = list::json(Body::full(text));
        if is_mixed
            && let Ok(value) = HeaderValue::try_from(format!("multipart/mixed; boundary=\"{boundary}\""))
        {
            response.headers_mut().insert(CONTENT_TYPE, value);
        }
        Ok(response)
    }

    /// The row of a version; `None` where it is not known, or is no longer there.
    fn find_row(&self, found: &Found, id: &str, rev: Option<&str>) -> Option<FeedRow> {
        let chain = found.chain(id);
        let end = chain.first()?;
        let is_known = |rev: Revision| {
            let is_older = chain.last().is_some_and(|first| rev.generation < first.revision.generation);
            is_older || chain.iter().any(|link| link.revision == rev)
        };
        let wanted = match rev {
            None => None,
            Some(rev) => Some(Revision::parse(rev).filter(|rev| is_known(*rev))?),
        };
        // A tombstone can be made of the chain alone, also where the upstream has none any more.
        let row = match found.rows.get(id) {
            Some(row) if !end.deleted || !row.deleted => row.clone(),
            _ if end.deleted => tombstone(id, end),
            _ => return None,
        };
        let is_it = self.is_true("latest") || wanted.is_none_or(|wanted| Some(wanted) == row.revision);
        is_it.then_some(row)
    }

    /// A version as a document. What it takes is held.
    async fn copy(&self, found: &Found, row: FeedRow, hold: &mut Hold) -> Result<Bytes, Error> {
        let before = found.chain(&row.id).iter().skip_while(|link| Some(link.revision) != row.revision);
        let ids: Vec<String> = before.map(|link| link.revision.hex()).collect();
        let start = row.revision.map_or(0, |revision| revision.generation);
        let revisions = self.is_true("revs").then(|| json!({"start": start, "ids": ids}).to_string());
        let length = row.json.len() + revisions.as_ref().map_or(0, String::len) + PIECES;
        hold.grow(length)?;
        let write = move || {
            let mut copy = Vec::with_capacity(length);
            document::write_copied(&mut copy, &row, revisions.as_deref());
            copy.into()
        };
        aside::run(length, write).await
    }

    /// Reads what is asked for, as it is now.
    async fn find(&self, asked: &[Asked]) -> Result<Found, Error> {
        let ids: BTreeSet<&str> = asked.iter().map(|asked| &*asked.id).collect();
        let uris: HashMap<String, &str> = ids.iter().map(|id| (self.revisions.uri(id), *id)).collect();
        for _ in 0..TRIES {
            let known = self.chains(&uris).await?;
            let newest = known.values().filter_map(|chain| Some(chain.first()?.modified)).max();
            let mut rows = self.rows(&ids, newest).await?;
            // Where one is older than its chain, somebody has written meanwhile.
            if !self.revisions.name_exactly(&mut rows).await?.is_empty() {
                continue;
            }
            let is_new = |row: &FeedRow| {
                let chain = known.get(&*row.id).map(Vec::as_slice).unwrap_or_default();
                chain.iter().all(|link| Some(link.revision) != row.revision)
            };
            let chains = if rows.iter().any(is_new) { self.chains(&uris).await? } else { known };
            let rows = rows.into_iter().map(|row| (row.id.to_string(), row)).collect();
            return Ok(Found { rows, chains });
        }
        Err(Error::Unavailable { retry_after: Some(1) })
    }

    /// The chains of records, by their ids. Of those of a former bucket, perhaps another owner's, nothing is told.
    async fn chains(&self, uris: &HashMap<String, &str>) -> Result<HashMap<String, Vec<Link>>, Error> {
        let names: Vec<String> = uris.keys().cloned().collect();
        let journal = self.revisions.journal();
        let former = journal.bucket_ended(&self.key.bucket).await?;
        let chains = journal.chains(&names).await?.into_iter();
        let present = |chain: Vec<Link>| -> Vec<Link> {
            chain.into_iter().take_while(|link| link.modified > former).collect()
        };
        Ok(chains.filter_map(|(uri, chain)| Some(((*uris.get(&uri)?).to_owned(), present(chain)))).collect())
    }

    /// Records as they are now.
    async fn rows(&self, ids: &BTreeSet<&str>, newest: Option<Timestamp>) -> Result<Vec<FeedRow>, Error> {
        let mirrors = &self.core.app.mirrors;
        let mirror = mirrors.hold(self.key);
        mirror.clock().used();
        let source = match mirrors.current(&mirror, newest).await {
            Ok((state, _)) => {
                let content = &state.content;
                return Ok(content
                    .with_ids(ids)
                    .into_iter()
                    .map(|row| {
                        FeedRow::new(
                            row.seq,
                            row.id.clone(),
                            row.last_modified,
                            row.deleted,
                            content.json(row),
                        )
                    })
                    .collect());
            }
            Err(KintoError::Oversize) => Source::new(self.core.upstream.clone()),
            Err(KintoError::Refused(_)) => self.requester.source(),
            Err(error) => return Err(error.into()),
        };
        let list = self.key.records_uri();
        let named = format!("&in_id={}", in_list(ids.iter().copied()));
        let mut pages = source.newer(&list, Timestamp::ZERO, &named).await?;
        let mut rows = Vec::new();
        while let Some(mut page) = pages.next().await? {
            source.tell_alive(&list, page.timestamp, &mut page.rows, |_| false).await?;
            rows.extend(page.rows.into_iter().map(|new| {
                let NewRow { id, last_modified, deleted, json, .. } = new;
                FeedRow::new(Seq::of(last_modified), id, last_modified, deleted, json)
            }));
        }
        Ok(rows)
    }
}

fn tombstone(id: &str, end: &Link) -> FeedRow {
    let record = json!({"id": id, "last_modified": end.modified.0, "deleted": true}).to_string();
    let row = FeedRow::new(Seq::of(end.modified), id.into(), end.modified, true, record.into());
    FeedRow { revision: Some(end.revision), ..row }
}
