-- Version 2: what a run needs to be carried on by another process, and to be cleared away later.

ALTER TABLE runs ADD COLUMN epoch INTEGER NOT NULL DEFAULT 1;
ALTER TABLE runs ADD COLUMN renewed_at INTEGER;
ALTER TABLE runs ADD COLUMN files_removed_at INTEGER;

CREATE INDEX runs_with_files ON runs (ended_at)
    WHERE ended_at IS NOT NULL AND files_removed_at IS NULL;

-- Texts that may be large have tables of their own: a listing does not read them, and a row that
-- changes often does not carry them along.
CREATE TABLE plans (
    run_id INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    plan   TEXT NOT NULL
) STRICT;

CREATE TABLE progress (
    attempt_id INTEGER PRIMARY KEY REFERENCES attempts (id) ON DELETE CASCADE,
    progress   TEXT NOT NULL
) STRICT;

CREATE TABLE reports (
    attempt_id INTEGER PRIMARY KEY REFERENCES attempts (id) ON DELETE CASCADE,
    report     TEXT NOT NULL
) STRICT;

-- What other processes ask of the one that drives a run; without an attempt, of the whole run.
CREATE TABLE requests (
    id         INTEGER PRIMARY KEY,
    run_id     INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    attempt_id INTEGER REFERENCES attempts (id) ON DELETE CASCADE,
    kind       TEXT NOT NULL,
    at         INTEGER NOT NULL
) STRICT;

CREATE INDEX requests_by_run ON requests (run_id);
CREATE INDEX requests_by_attempt ON requests (attempt_id) WHERE attempt_id IS NOT NULL;

-- The attempts of a run in the order they were recorded: every index ends with the row's id.
CREATE INDEX attempts_in_order ON attempts (run_id);
