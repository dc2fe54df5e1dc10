-- What programs that copy a collection note of how far they are, by the user who runs them. `written` is in microseconds.
CREATE TABLE sidecar_checkpoints (
    user_id TEXT{bytes} NOT NULL,
    collection TEXT{bytes} NOT NULL,
    id TEXT{bytes} NOT NULL,
    revision BIGINT NOT NULL,
    written BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, collection, id)
){rowless};
CREATE INDEX sidecar_checkpoints_written ON sidecar_checkpoints (written, bytes);
CREATE INDEX sidecar_checkpoints_of ON sidecar_checkpoints (user_id, collection, written, bytes);
