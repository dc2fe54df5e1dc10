-- The versions of each object that were Kinto's present ones when they were entered, numbered over all lives of the object.
-- `follows` is 0 where it is not known what was before the first one.
CREATE TABLE sidecar_versions (
    uri TEXT{bytes} NOT NULL,
    generation BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    deleted BIGINT NOT NULL,
    follows BIGINT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (uri, generation)
){rowless};
