-- Version 3: what waits, in its order, from an index alone, however much it is. Attempts leave it
-- when they begin.
CREATE INDEX attempts_waiting ON attempts (id, run_id) WHERE state = 'PENDING';
