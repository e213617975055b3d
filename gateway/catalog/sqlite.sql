-- One row: what the catalogue is and how far its change log goes.
CREATE TABLE catalog_state (
    single INTEGER PRIMARY KEY CHECK (single = 1),
    schema_version INTEGER NOT NULL,
    catalog_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    items INTEGER NOT NULL
);

-- item_id compares as bytes (BINARY, the default), so its index is the export order.
CREATE TABLE items (
    item_id TEXT NOT NULL UNIQUE,
    bucket INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    content_hash BLOB NOT NULL,
    item BLOB NOT NULL
);

-- The latest change of an item that is gone.
CREATE TABLE removals (
    item_id TEXT NOT NULL UNIQUE,
    bucket INTEGER NOT NULL,
    seq INTEGER NOT NULL
);

-- Followers read the changes of a bucket range in order of seq.
CREATE INDEX items_by_seq ON items (seq, bucket);
CREATE INDEX removals_by_seq ON removals (seq, bucket);

CREATE TABLE attributes (
    name TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL
) WITHOUT ROWID;
