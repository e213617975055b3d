-- One row: what the catalogue is and how far its change log goes.
CREATE TABLE catalog_state (
    single integer PRIMARY KEY CHECK (single = 1),
    schema_version integer NOT NULL,
    catalog_id text NOT NULL,
    seq bigint NOT NULL,
    items bigint NOT NULL
);

-- item_id compares as bytes, so its index is the export order.
CREATE TABLE items (
    item_id text COLLATE "C" PRIMARY KEY,
    bucket integer NOT NULL,
    seq bigint NOT NULL,
    content_hash bytea NOT NULL,
    item bytea NOT NULL
);

-- The latest change of an item that is gone.
CREATE TABLE removals (
    item_id text COLLATE "C" PRIMARY KEY,
    bucket integer NOT NULL,
    seq bigint NOT NULL
);

-- Followers read the changes of a bucket range in order of seq.
CREATE INDEX items_by_seq ON items (seq, bucket);
CREATE INDEX removals_by_seq ON removals (seq, bucket);

CREATE TABLE attributes (
    name text PRIMARY KEY,
    kind text NOT NULL
);
