CREATE TABLE sidecar_meta (
    name TEXT{bytes} PRIMARY KEY,
    value TEXT NOT NULL
);

-- One for each bucket. That of a deleted bucket is no longer current, and is removed bit by bit.
CREATE TABLE sidecar_histories (
    id {key},
    bucket TEXT{bytes} NOT NULL,
    is_current BIGINT NOT NULL,
    timestamp BIGINT NOT NULL,
    entries BIGINT NOT NULL
);
CREATE UNIQUE INDEX sidecar_histories_current ON sidecar_histories (bucket) WHERE is_current = 1;
CREATE INDEX sidecar_histories_old ON sidecar_histories (id) WHERE is_current = 0;

-- `json` is the entry as it is served; the columns before it repeat of it what is selected by.
CREATE TABLE sidecar_entries (
    history BIGINT NOT NULL,
    last_modified BIGINT NOT NULL,
    id TEXT{bytes} NOT NULL,
    uri TEXT{bytes} NOT NULL,
    object_modified BIGINT NOT NULL,
    resource_name TEXT{bytes} NOT NULL,
    action TEXT{bytes} NOT NULL,
    user_id TEXT{bytes},
    date TEXT{bytes} NOT NULL,
    bucket_id TEXT{bytes},
    group_id TEXT{bytes},
    collection_id TEXT{bytes},
    record_id TEXT{bytes},
    reader_set BIGINT NOT NULL,
    knows_readers BIGINT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (history, last_modified)
);
CREATE UNIQUE INDEX sidecar_entries_id ON sidecar_entries (history, id);
CREATE INDEX sidecar_entries_uri ON sidecar_entries (history, uri, last_modified, object_modified);
CREATE INDEX sidecar_entries_version ON sidecar_entries (history, object_modified);
CREATE INDEX sidecar_entries_resource ON sidecar_entries (history, resource_name, last_modified);
CREATE INDEX sidecar_entries_action ON sidecar_entries (history, action, last_modified);
CREATE INDEX sidecar_entries_user ON sidecar_entries (history, user_id, last_modified);
CREATE INDEX sidecar_entries_date ON sidecar_entries (history, date, last_modified);
CREATE INDEX sidecar_entries_group ON sidecar_entries (history, group_id, last_modified) WHERE group_id IS NOT NULL;
CREATE INDEX sidecar_entries_collection ON sidecar_entries (history, collection_id, last_modified) WHERE collection_id IS NOT NULL;
CREATE INDEX sidecar_entries_record ON sidecar_entries (history, record_id, last_modified) WHERE record_id IS NOT NULL;
CREATE INDEX sidecar_entries_readers ON sidecar_entries (history, reader_set);
CREATE INDEX sidecar_entries_unread ON sidecar_entries (history, uri) WHERE knows_readers = 0;

-- Entries that were deleted.
CREATE TABLE sidecar_tombstones (
    history BIGINT NOT NULL,
    last_modified BIGINT NOT NULL,
    id TEXT{bytes} NOT NULL,
    PRIMARY KEY (history, last_modified)
);
CREATE INDEX sidecar_tombstones_id ON sidecar_tombstones (history, id);

-- What may be missing before a moment: versions from `since` on were trimmed, purged or excluded.
CREATE TABLE sidecar_gaps (
    history BIGINT NOT NULL,
    collection_id TEXT{bytes} NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (history, collection_id)
);

-- Sets of principals who may read entries.
CREATE TABLE sidecar_reader_sets (
    id {key},
    digest TEXT{bytes} NOT NULL UNIQUE,
    principals TEXT NOT NULL
);
CREATE TABLE sidecar_readers (
    principal TEXT{bytes} NOT NULL,
    reader_set BIGINT NOT NULL,
    PRIMARY KEY (principal, reader_set)
);

-- The state of objects as last recorded; `is_entry` where the newest entry about it shows it.
CREATE TABLE sidecar_objects (
    uri TEXT{bytes} PRIMARY KEY,
    list TEXT{bytes} NOT NULL,
    modified BIGINT NOT NULL,
    deleted BIGINT NOT NULL,
    permissions TEXT,
    is_entry BIGINT NOT NULL
);
CREATE INDEX sidecar_objects_alive ON sidecar_objects (list, uri) WHERE deleted = 0;

CREATE TABLE sidecar_watermarks (
    list TEXT{bytes} PRIMARY KEY,
    timestamp BIGINT NOT NULL
);

-- Writes under way, with the process that settles them.
CREATE TABLE sidecar_intents (
    intent_group BIGINT NOT NULL,
    position BIGINT NOT NULL,
    owner BIGINT NOT NULL,
    bucket TEXT{bytes} NOT NULL,
    user_id TEXT,
    method TEXT NOT NULL,
    uri TEXT NOT NULL,
    sent TEXT,
    known BIGINT NOT NULL,
    PRIMARY KEY (intent_group, position)
);
CREATE INDEX sidecar_intents_bucket ON sidecar_intents (bucket);
