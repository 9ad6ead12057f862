-- Killed anywhere, nothing lost: who trained an epoch that several runs have in common, checkpoints within epochs, signs of
-- life, requests to stop, and what else outlives a scheduler. Conventions as in the first migration.

-- What programs must know about this file beside its migrations.
--
--   min_reader   the oldest schema version of a program that reads this file correctly. A migration raises it where it
--                changes what an older program would read; one that only adds columns or tables leaves it.
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('min_reader', '4');

-- Largest micro batch that is tried, after larger ones did not fit the memory; NULL: as the specification says.
ALTER TABLE runs ADD COLUMN micro_batch_limit INTEGER CHECK (micro_batch_limit > 0);
-- When somebody asked to cancel the run while it was running; NULL again once its attempt is settled.
ALTER TABLE runs ADD COLUMN cancel_requested_ms INTEGER;
CREATE INDEX runs_to_cancel ON runs (id) WHERE cancel_requested_ms IS NOT NULL;

-- `transient_failures` of a run counts failures without progress: it begins anew, at 1, with a failed attempt that has
-- trained an epoch.

-- Of the checkpoint that the attempt went on from (`resumed_from` is its epochs): the run that wrote it, if another one.
ALTER TABLE attempts ADD COLUMN resumed_run TEXT;
-- Images a forward pass.
ALTER TABLE attempts ADD COLUMN micro_batch_size INTEGER;
-- When the worker's process started, in clock ticks since its machine did: with `host` and `pid`, which process it is.
ALTER TABLE attempts ADD COLUMN process_start INTEGER;
-- When the worker said anything last. `progress_ms` is when its position (phase, epoch, step) changed last. A worker that
-- hangs is heard and does not move; one that died is not heard.
ALTER TABLE attempts ADD COLUMN heard_ms INTEGER;
-- Why the event after `last_sequence` and all behind it are not believed; NULL where all are.
ALTER TABLE attempts ADD COLUMN refused TEXT;

-- The run that trained the epoch, if another one: this run has gone on from its checkpoint.
ALTER TABLE epochs ADD COLUMN trained_by TEXT;

-- Checkpoints that a worker said it has written; some are gone by now. Files are relative to the home folder. Those of
-- earlier versions lay elsewhere and cannot be used any more.
DROP TABLE checkpoints;
CREATE TABLE checkpoints (
    run      TEXT    NOT NULL,
    epochs   INTEGER NOT NULL CHECK (epochs >= 0),              -- completed epochs
    step     INTEGER NOT NULL CHECK (step >= 0),                -- optimizer steps done in the epoch after those
    file     TEXT    NOT NULL,
    digest   TEXT    NOT NULL,                                  -- SHA-256 of the file
    bytes    INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    saved_ms INTEGER NOT NULL,
    PRIMARY KEY (run, epochs, step),
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

DROP VIEW curves;
DROP VIEW results;

-- Validation accuracy and losses over epochs. Here `epoch` counts completed epochs, from 1. `trained_by` is another run that
-- trained the epoch, or NULL.
CREATE VIEW curves AS
SELECT r.id,
       substr(r.id, 1, 10) AS short_id,
       r.backbone, r.dataset, r.target_epsilon, r.epsilon_schedule, r.seed,
       e.epoch + 1 AS epoch, e.epsilon, e.learning_rate,
       e.train_loss, CAST(e.train_correct AS REAL) / e.train_total AS train_accuracy,
       e.clean_loss, CAST(e.clean_correct AS REAL) / e.validation_total AS clean_accuracy,
       e.robust_loss, CAST(e.robust_correct AS REAL) / e.validation_total AS robust_accuracy,
       e.train_seconds, e.validation_seconds, e.trained_by
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
--   validation_clean     clean accuracy on the validation split after the last epoch
--   delay                first epoch, from 1, whose validation clean accuracy exceeds 5 %; the number of epochs if
--                        none does; NULL while that is open
--   delay_above_chance   the same against guessing, for few classes: accuracy more than 5 % of the way from chance to 1,
--                        and more than 3 standard deviations of a guesser's count above chance
--   standard_clean       clean accuracy of standard fine-tuning: of a finished run of the same recipe (`specs.recipe`)
--                        whose epsilon is always 0
--   clean_drop           standard_clean less clean
--   train_seconds        training time of all epochs, validation left out: also of those that another run trained, so that
--                        it is what the run's training costs by itself
--   shared_epochs        epochs that another run trained: this one went on from its checkpoint
--   test_total           images in the test split
CREATE VIEW results AS
SELECT *, standard_clean - clean AS clean_drop
FROM (
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
       (SELECT CAST(e.clean_correct AS REAL) / e.validation_total FROM epochs e
        WHERE e.run = r.id AND e.epoch = r.epochs - 1) AS validation_clean,
       coalesce((SELECT min(e.epoch) + 1 FROM epochs e
                 WHERE e.run = r.id AND CAST(e.clean_correct AS REAL) / e.validation_total > 0.05),
                CASE r.state WHEN 'succeeded' THEN r.epochs END) AS delay,
       -- `chance` and `excess` are written out; SQLite has no square root here, so both sides are squared.
       (SELECT coalesce(min(e.epoch) + 1, CASE r.state WHEN 'succeeded' THEN r.epochs END)
        FROM provenance p
        LEFT JOIN epochs e ON e.run = p.run AND p.classes > 1
            AND CAST(e.clean_correct AS REAL) / e.validation_total - 1.0 / p.classes
                > 0.05 * (1.0 - 1.0 / p.classes)
            AND (CAST(e.clean_correct AS REAL) / e.validation_total - 1.0 / p.classes)
                * (CAST(e.clean_correct AS REAL) / e.validation_total - 1.0 / p.classes)
                > 9.0 * (1.0 / p.classes * (1.0 - 1.0 / p.classes) / e.validation_total)
        WHERE p.run = r.id AND p.attempt = (SELECT max(q.attempt) FROM provenance q WHERE q.run = r.id)
        GROUP BY p.run) AS delay_above_chance,
       (SELECT CAST(e.correct AS REAL) / e.total
        FROM specs t
        JOIN runs u ON u.id = t.run AND u.state = 'succeeded'
        JOIN evaluations e ON e.run = u.id AND e.epochs = u.epochs AND e.split = 'test' AND e.epsilon_numerator = 0
        WHERE t.is_standard AND t.recipe = s.recipe
        ORDER BY t.run LIMIT 1) AS standard_clean,
       (SELECT sum(e.train_seconds) FROM epochs e WHERE e.run = r.id) AS train_seconds,
       (SELECT count(e.trained_by) FROM epochs e WHERE e.run = r.id) AS shared_epochs,
       (SELECT max(e.total) FROM evaluations e
        WHERE e.run = r.id AND e.epochs = r.epochs AND e.split = 'test') AS test_total,
       r.training_id, r.depends_on, r.created_ms, r.updated_ms
FROM runs r
LEFT JOIN specs s ON s.run = r.id
);
