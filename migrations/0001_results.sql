-- The results of every run, in one SQLite file.
--
-- Conventions:
--   * `run` is the run's id: 32 hexadecimal digits, a hash of what changes its result.
--   * Accuracies are stored as counts (`correct` of `total`), never as percentages. The views divide.
--   * An epsilon is stored three times: as the text that people write (`4/255`), as its exact fraction
--     (numerator, denominator; in 255ths where that is exact) and, to compare and plot, as a number in [0, 1].
--   * Columns that end in `_ms` are milliseconds since 1970-01-01 UTC; columns that end in `_seconds` are durations.
--   * Epochs count from 0 in `epochs.epoch`; columns called `epochs` are numbers of completed epochs.
--   * Losses and rates that were not finite are NULL.

-- One row a sweep file. Registering a file of the same name again replaces its text and its list of runs.
CREATE TABLE sweeps (
    id             INTEGER PRIMARY KEY,
    name           TEXT    NOT NULL UNIQUE,
    yaml           TEXT    NOT NULL,               -- the file as it was read
    digest         TEXT    NOT NULL,               -- SHA-256 of `yaml`
    listing_digest TEXT    NOT NULL,               -- SHA-256 over the ids of its runs, in order
    created_ms     INTEGER NOT NULL,
    updated_ms     INTEGER NOT NULL
) STRICT;

-- One row a run: what people filter and group by, and where it stands. The whole specification is in `specs`.
CREATE TABLE runs (
    id                         TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 32),
    training_id                TEXT    NOT NULL CHECK (length(training_id) = 32), -- equal for runs that train alike
    backbone                   TEXT    NOT NULL,  -- name in the sweep file that registered the run first
    dataset                    TEXT    NOT NULL,  -- likewise
    input_size                 INTEGER NOT NULL CHECK (input_size > 0),           -- side of the input in pixels
    target_epsilon             TEXT    NOT NULL,
    target_epsilon_numerator   INTEGER NOT NULL CHECK (target_epsilon_numerator >= 0),
    target_epsilon_denominator INTEGER NOT NULL CHECK (target_epsilon_denominator > 0),
    target_epsilon_value       REAL    NOT NULL CHECK (target_epsilon_value BETWEEN 0 AND 1),
    epsilon_schedule           TEXT    NOT NULL,  -- such as `ramp 12-37`
    epsilon_schedule_kind      TEXT    NOT NULL,  -- such as `ramp`
    seed                       INTEGER NOT NULL,
    epochs                     INTEGER NOT NULL CHECK (epochs >= 0),              -- the budget
    batch_size                 INTEGER NOT NULL CHECK (batch_size > 0),
    optimizer                  TEXT    NOT NULL,  -- such as `adamw`
    learning_rate              REAL    NOT NULL,  -- of the backbone, before its schedule
    evaluation_attack          TEXT    NOT NULL,  -- attack on the test split, such as `apgd-10-ce`
    evaluation_norm            TEXT    NOT NULL CHECK (evaluation_norm IN ('linf', 'l2')),
    depends_on                 TEXT    REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED, -- must succeed before
    state                      TEXT    NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'running', 'succeeded', 'failed', 'interrupted', 'cancelled')),
    failure_class              TEXT,              -- why the latest attempt failed; kept while a retry is pending
    failure_message            TEXT,
    attempts                   INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),  -- number of the latest attempt
    transient_failures         INTEGER NOT NULL DEFAULT 0 CHECK (transient_failures >= 0), -- since the last reset
    created_ms                 INTEGER NOT NULL,
    updated_ms                 INTEGER NOT NULL,
    CHECK (state <> 'failed' OR failure_class IS NOT NULL),
    CHECK (state <> 'succeeded' OR failure_class IS NULL)
) STRICT, WITHOUT ROWID;

CREATE INDEX runs_by_dependency ON runs (depends_on) WHERE depends_on IS NOT NULL;

-- The complete specification of a run as JSON, apart from `runs` so that listing runs does not read it.
-- `SELECT spec ->> '$.optimizer.weight_decay' FROM specs` reads what `runs` has no column for.
CREATE TABLE specs (
    run  TEXT NOT NULL PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    spec TEXT NOT NULL
) STRICT;

-- Which runs a sweep lists, in the order of expansion. A run can belong to several sweeps.
CREATE TABLE sweep_runs (
    sweep    INTEGER NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),
    run      TEXT    NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (sweep, position),
    UNIQUE (run, sweep)
) STRICT, WITHOUT ROWID;

-- Every execution of a run by a worker process, kept for ever.
CREATE TABLE attempts (
    run             TEXT    NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    number          INTEGER NOT NULL CHECK (number > 0),        -- 1, 2, 3, … within the run
    state           TEXT    NOT NULL DEFAULT 'running'
        CHECK (state IN ('running', 'succeeded', 'failed', 'interrupted', 'cancelled')),
    scheduler       TEXT    NOT NULL,                           -- who claimed it
    started_ms      INTEGER NOT NULL,
    ended_ms        INTEGER,
    -- What the worker said about itself.
    host            TEXT,
    pid             INTEGER,
    device          TEXT,
    threads         INTEGER,
    version         TEXT,
    resumed_from    INTEGER,                                    -- epochs of the checkpoint that it went on from
    -- How it ended. `reported` is the worker's last word; without one it died.
    reported        TEXT    CHECK (reported IN ('succeeded', 'interrupted', 'failed')),
    exit_code       INTEGER,
    signal          INTEGER,
    failure_class   TEXT,
    failure_message TEXT,
    log_tail        TEXT,                                       -- last lines of the log of a failed attempt
    -- How far `events.jsonl` has been read.
    byte_offset     INTEGER NOT NULL DEFAULT 0 CHECK (byte_offset >= 0),
    last_sequence   INTEGER NOT NULL DEFAULT -1 CHECK (last_sequence >= -1),
    -- The latest progress event.
    progress_phase  TEXT    CHECK (progress_phase IN ('loading', 'training', 'validation', 'evaluation')),
    progress_epoch  INTEGER,
    progress_step   INTEGER,
    progress_steps  INTEGER,
    progress_ms     INTEGER,
    PRIMARY KEY (run, number),
    CHECK ((state = 'running') = (ended_ms IS NULL)),
    CHECK (state <> 'failed' OR failure_class IS NOT NULL)
) STRICT, WITHOUT ROWID;

-- At most one running attempt a run, whoever writes. The index also finds all running attempts.
CREATE UNIQUE INDEX one_running_attempt ON attempts (run) WHERE state = 'running';

-- One row a trained epoch. An attempt that trains an epoch again replaces its row.
CREATE TABLE epochs (
    run                TEXT    NOT NULL,
    epoch              INTEGER NOT NULL CHECK (epoch >= 0),
    attempt            INTEGER NOT NULL,
    epsilon            REAL    NOT NULL,                        -- radius used in this epoch, in [0, 1]
    learning_rate      REAL,                                    -- of the backbone at its last step
    train_loss         REAL,
    train_correct      INTEGER NOT NULL CHECK (train_correct BETWEEN 0 AND train_total),
    train_total        INTEGER NOT NULL,
    clean_correct      INTEGER NOT NULL CHECK (clean_correct BETWEEN 0 AND validation_total),
    robust_correct     INTEGER NOT NULL CHECK (robust_correct BETWEEN 0 AND validation_total),
    validation_total   INTEGER NOT NULL,
    clean_loss         REAL,
    robust_loss        REAL,
    train_seconds      REAL    NOT NULL,
    validation_seconds REAL    NOT NULL,
    finished_ms        INTEGER NOT NULL,
    PRIMARY KEY (run, epoch),
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- One row an accuracy measured on a complete split. At epsilon 0 the attack is `none`, the norm that of the others.
CREATE TABLE evaluations (
    run                 TEXT    NOT NULL,
    epochs              INTEGER NOT NULL CHECK (epochs >= 0),   -- completed epochs of the weights
    split               TEXT    NOT NULL CHECK (split IN ('train', 'validation', 'test')),
    attack              TEXT    NOT NULL,
    norm                TEXT    NOT NULL CHECK (norm IN ('linf', 'l2')),
    epsilon             TEXT    NOT NULL,
    epsilon_numerator   INTEGER NOT NULL CHECK (epsilon_numerator >= 0),
    epsilon_denominator INTEGER NOT NULL CHECK (epsilon_denominator > 0),
    epsilon_value       REAL    NOT NULL CHECK (epsilon_value BETWEEN 0 AND 1),
    correct             INTEGER NOT NULL CHECK (correct BETWEEN 0 AND total),
    total               INTEGER NOT NULL,
    seconds             REAL    NOT NULL,
    attempt             INTEGER NOT NULL,
    PRIMARY KEY (run, epochs, split, attack, norm, epsilon),
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Checkpoints that a worker said it has written; files are relative to the run's folder.
CREATE TABLE checkpoints (
    run      TEXT    NOT NULL,
    epochs   INTEGER NOT NULL CHECK (epochs >= 0),              -- completed epochs
    file     TEXT    NOT NULL,
    digest   TEXT    NOT NULL,                                  -- SHA-256 of the file
    bytes    INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    saved_ms INTEGER NOT NULL,
    PRIMARY KEY (run, epochs),
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- The final model of a run; the file is relative to the run's folder.
CREATE TABLE models (
    run      TEXT    NOT NULL PRIMARY KEY,
    file     TEXT    NOT NULL,
    digest   TEXT    NOT NULL,                                  -- SHA-256 of the file
    bytes    INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    saved_ms INTEGER NOT NULL,
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- What an attempt really used.
CREATE TABLE provenance (
    run            TEXT    NOT NULL,
    attempt        INTEGER NOT NULL,
    dataset_digest TEXT    NOT NULL,                            -- of the prepared images
    weights_digest TEXT,                                        -- SHA-256 of the weights; NULL for random weights
    classes        INTEGER NOT NULL,
    train          INTEGER NOT NULL,                            -- images
    validation     INTEGER NOT NULL,
    test           INTEGER NOT NULL,
    parameters     INTEGER NOT NULL,                            -- of backbone and head
    PRIMARY KEY (run, attempt),
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Accuracy on the test split over epsilon, with the attack that the run asks for and the weights of its last epoch.
CREATE VIEW accuracy_over_epsilon AS
SELECT r.id,
       substr(r.id, 1, 10) AS short_id,
       r.backbone, r.dataset, r.target_epsilon, r.epsilon_schedule, r.seed,
       e.attack, e.norm, e.epsilon, e.epsilon_value,
       e.correct, e.total,
       CAST(e.correct AS REAL) / e.total AS accuracy
FROM runs r
JOIN evaluations e ON e.run = r.id AND e.epochs = r.epochs AND e.split = 'test' AND e.norm = r.evaluation_norm
    AND (e.epsilon_numerator = 0 OR e.attack = r.evaluation_attack);

-- Validation accuracy and losses over epochs. Here `epoch` counts completed epochs, from 1.
CREATE VIEW curves AS
SELECT r.id,
       substr(r.id, 1, 10) AS short_id,
       r.backbone, r.dataset, r.target_epsilon, r.epsilon_schedule, r.seed,
       e.epoch + 1 AS epoch, e.epsilon, e.learning_rate,
       e.train_loss, CAST(e.train_correct AS REAL) / e.train_total AS train_accuracy,
       e.clean_loss, CAST(e.clean_correct AS REAL) / e.validation_total AS clean_accuracy,
       e.robust_loss, CAST(e.robust_correct AS REAL) / e.validation_total AS robust_accuracy,
       e.train_seconds, e.validation_seconds
FROM runs r
JOIN epochs e ON e.run = r.id;

-- One row a run: what it is, where it stands, and what came out. Accuracies are fractions of the test split.
--
--   blocked              1 where the run waits for a run that failed or was cancelled
--   epochs_done          epochs trained and validated so far
--   clean                accuracy without an attack
--   robust               accuracy under the run's evaluation attack at its target epsilon
--   expected_robustness  area under accuracy over epsilon on [0, target], divided by the target: the trapezoid rule
--                        with a point at every 1/255 and at the target; NULL while a point is missing
--   delay                first epoch, from 1, whose validation clean accuracy exceeds 5 %; the number of epochs if
--                        none does; NULL while that is open
--   train_seconds        training time of all epochs, validation left out
--   test_total           images in the test split
CREATE VIEW results AS
SELECT r.id,
       substr(r.id, 1, 10) AS short_id,
       r.backbone, r.dataset, r.input_size,
       r.target_epsilon, r.target_epsilon_value,
       r.epsilon_schedule, r.epsilon_schedule_kind,
       r.seed, r.epochs, r.batch_size, r.optimizer, r.learning_rate, r.evaluation_attack, r.evaluation_norm,
       r.state, r.failure_class, r.failure_message, r.attempts,
       r.state IN ('pending', 'interrupted') AND EXISTS (
           SELECT 1 FROM runs d WHERE d.id = r.depends_on AND d.state IN ('failed', 'cancelled')
       ) AS blocked,
       (SELECT coalesce(max(e.epoch) + 1, 0) FROM epochs e WHERE e.run = r.id) AS epochs_done,
       (SELECT CAST(e.correct AS REAL) / e.total FROM evaluations e
        WHERE e.run = r.id AND e.epochs = r.epochs AND e.split = 'test' AND e.epsilon_numerator = 0
          AND e.norm = r.evaluation_norm
        LIMIT 1) AS clean,
       (SELECT CAST(e.correct AS REAL) / e.total FROM evaluations e
        WHERE e.run = r.id AND e.epochs = r.epochs AND e.split = 'test' AND e.epsilon = r.target_epsilon
          AND e.norm = r.evaluation_norm AND (e.epsilon_numerator = 0 OR e.attack = r.evaluation_attack)
        LIMIT 1) AS robust,
       -- The weight of a point is half the distance between its neighbours on the grid, here in 255ths.
       (SELECT CASE
                   WHEN count(*)
                        < 255 * r.target_epsilon_numerator / r.target_epsilon_denominator + 1
                          + (r.target_epsilon_denominator <> 255) THEN NULL
                   WHEN r.target_epsilon_numerator = 0 THEN max(CAST(e.correct AS REAL) / e.total)
                   ELSE sum(CAST(e.correct AS REAL) / e.total
                            * (min(e.epsilon_numerator * 255.0 / e.epsilon_denominator + 1,
                                   r.target_epsilon_numerator * 255.0 / r.target_epsilon_denominator)
                               - CASE WHEN e.epsilon_denominator = 255 THEN max(e.epsilon_numerator - 1, 0)
                                      ELSE e.epsilon_numerator * 255 / e.epsilon_denominator END)
                            / 2)
                        / (r.target_epsilon_numerator * 255.0 / r.target_epsilon_denominator)
               END
        FROM evaluations e
        WHERE e.run = r.id AND e.epochs = r.epochs AND e.split = 'test' AND e.norm = r.evaluation_norm
          AND (e.epsilon_numerator = 0 OR e.attack = r.evaluation_attack)
          AND (e.epsilon_denominator = 255 OR e.epsilon = r.target_epsilon)
          AND e.epsilon_numerator * r.target_epsilon_denominator
              <= r.target_epsilon_numerator * e.epsilon_denominator) AS expected_robustness,
       coalesce((SELECT min(e.epoch) + 1 FROM epochs e
                 WHERE e.run = r.id AND CAST(e.clean_correct AS REAL) / e.validation_total > 0.05),
                CASE r.state WHEN 'succeeded' THEN r.epochs END) AS delay,
       (SELECT sum(e.train_seconds) FROM epochs e WHERE e.run = r.id) AS train_seconds,
       (SELECT max(e.total) FROM evaluations e
        WHERE e.run = r.id AND e.epochs = r.epochs AND e.split = 'test') AS test_total,
       r.training_id, r.depends_on, r.created_ms, r.updated_ms
FROM runs r;
