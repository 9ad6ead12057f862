-- Runs that are with Slurm. Conventions as in the first migration. Only tables are added, so `min_reader` stays.

-- One row an array that was, or was about to be, submitted. The row is written first: a scheduler that dies between `sbatch`
-- and taking down the job's number finds the job by its name, which is the token.
CREATE TABLE generations (
    token      TEXT    NOT NULL PRIMARY KEY,              -- name of the job, and of the folder under `slurm/`
    state      TEXT    NOT NULL DEFAULT 'submitting'
        CHECK (state IN ('submitting', 'open', 'closed', 'void')),
    job        INTEGER CHECK (job > 0),                   -- Slurm's number of the array; NULL where it is not known
    tasks      INTEGER NOT NULL CHECK (tasks > 0),
    created_ms INTEGER NOT NULL,
    ended_ms   INTEGER,                                   -- when the last of its runs was over, or that it never was submitted
    CHECK ((state IN ('submitting', 'open')) = (ended_ms IS NULL))
) STRICT, WITHOUT ROWID;

-- Which run is which task of which array. A task does its runs one after the other.
CREATE TABLE submissions (
    generation TEXT    NOT NULL REFERENCES generations (token) ON DELETE CASCADE,
    task       INTEGER NOT NULL CHECK (task >= 0),
    place      INTEGER NOT NULL CHECK (place >= 0),       -- 0 for the first run of the task
    run        TEXT    NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    after      INTEGER NOT NULL CHECK (after >= 0),       -- attempts of the run before: later ones are this array's
    is_open    INTEGER NOT NULL DEFAULT 1 CHECK (is_open IN (0, 1)), -- 0 once Slurm has nothing more to do with the run
    reason     TEXT,                                      -- why the task does not run, in Slurm's words
    PRIMARY KEY (generation, task, place)
) STRICT, WITHOUT ROWID;

-- A run is in one array at a time, and nobody else claims it meanwhile.
CREATE UNIQUE INDEX one_open_submission ON submissions (run) WHERE is_open = 1;
