-- The record as version 1 of the schema has it.
--
-- Instants are nanoseconds since 1970 in UTC. Paths are ANY: text when they are UTF-8, else bytes.
-- Ids are never used twice (AUTOINCREMENT), so that a page of attempts stays a page after clean-up.

-- "swef": tells this file from another program's database.
PRAGMA application_id = 0x73776566;

CREATE TABLE installation (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    owner TEXT NOT NULL
) STRICT;

CREATE TABLE runs (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid           TEXT NOT NULL UNIQUE,
    kind           TEXT NOT NULL,
    agent          TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    ended_at       INTEGER,
    out_directory  ANY NOT NULL,
    holder         TEXT NOT NULL,
    arguments      TEXT NOT NULL,
    engine         TEXT NOT NULL,
    engine_version TEXT NOT NULL
) STRICT;

CREATE INDEX runs_by_created_at ON runs (created_at);
CREATE INDEX runs_by_ended_at ON runs (ended_at);

CREATE TABLE attempts (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id        TEXT NOT NULL UNIQUE,
    run_id           INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    task_id          TEXT NOT NULL,
    attempt          INTEGER NOT NULL,
    repetition       INTEGER NOT NULL,
    title            TEXT NOT NULL,
    difficulty       TEXT NOT NULL,
    image            TEXT NOT NULL,
    image_digest     TEXT,
    state            TEXT NOT NULL CHECK (state IN (
        'PENDING', 'CREATING', 'RUNNING', 'COMPLETED', 'FAILED', 'TIMEOUT', 'CLEANUP'
    )),
    reason           TEXT,
    cause            TEXT,
    message          TEXT,
    deadline         TEXT,
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    ended_at         INTEGER,
    cleanup_ended_at INTEGER,
    usage            TEXT,
    attestation      TEXT,
    report_path      ANY
) STRICT;

-- Each filter of a listing is answered from one of these alone; rows are read for one page only.
-- The listing names the one it wants (src/listing.rs).
CREATE UNIQUE INDEX attempts_by_run ON attempts (run_id, task_id, attempt, repetition);
CREATE INDEX attempts_by_run_and_state ON attempts (run_id, state, task_id);
CREATE INDEX attempts_by_state ON attempts (state, task_id);
CREATE INDEX attempts_by_task ON attempts (task_id);

CREATE TABLE transitions (
    attempt_id INTEGER NOT NULL REFERENCES attempts (id) ON DELETE CASCADE,
    sequence   INTEGER NOT NULL,
    from_state TEXT NOT NULL,
    to_state   TEXT NOT NULL,
    at         INTEGER NOT NULL,
    detail     TEXT,
    PRIMARY KEY (attempt_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE phases (
    id           INTEGER PRIMARY KEY,
    attempt_id   INTEGER NOT NULL REFERENCES attempts (id) ON DELETE CASCADE,
    phase        TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    ended_at     INTEGER,
    exit_text    TEXT,
    exit_code    INTEGER,
    duration_ms  INTEGER,
    output_bytes INTEGER,
    truncated    INTEGER NOT NULL DEFAULT 0,
    log_path     ANY,
    UNIQUE (attempt_id, phase)
) STRICT;

CREATE TABLE objects (
    id          INTEGER PRIMARY KEY,
    attempt_id  INTEGER NOT NULL REFERENCES attempts (id) ON DELETE CASCADE,
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    intended_at INTEGER NOT NULL,
    created_at  INTEGER,
    removed_at  INTEGER,
    UNIQUE (kind, name)
) STRICT;

CREATE INDEX objects_by_attempt ON objects (attempt_id);
CREATE INDEX objects_not_removed ON objects (attempt_id) WHERE removed_at IS NULL;

CREATE TABLE artifacts (
    id            INTEGER PRIMARY KEY,
    attempt_id    INTEGER NOT NULL REFERENCES attempts (id) ON DELETE CASCADE,
    relative_path ANY NOT NULL,
    size_bytes    INTEGER NOT NULL,
    kind          TEXT NOT NULL,
    stored_path   ANY NOT NULL,
    UNIQUE (attempt_id, relative_path)
) STRICT;
