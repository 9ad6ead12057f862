-- Places are no part of a recipe: also where the Hub's files lie on this machine, and the sizes that a dataset is expected to
-- have, which a run's id leaves out as well. Conventions as in the first migration. No column that a program reads changes its
-- meaning, so `min_reader` stays.

DROP VIEW severity;
DROP VIEW results;
DROP INDEX standard_recipes;
ALTER TABLE specs DROP COLUMN recipe;

-- What a run has in common with standard fine-tuning and with itself at other target epsilons: everything but what
-- perturbs its images, what is measured, and names and places.
ALTER TABLE specs ADD COLUMN recipe TEXT GENERATED ALWAYS AS (json_remove(spec,
    '$.epsilon_schedule', '$.target_epsilon', '$.attack', '$.objective', '$.validation', '$.evaluation',
    '$.micro_batch_size', '$.backbone.name', '$.backbone.definition.weights.path', '$.backbone.definition.weights.run',
    '$.dataset.name', '$.dataset.definition.source.path', '$.dataset.definition.source.folder',
    '$.dataset.definition.expected')) VIRTUAL;
CREATE INDEX standard_recipes ON specs (recipe) WHERE is_standard;

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

-- What the paper's Figure 9 plots, one row a point: for every finished robust recipe (a schedule and an attack, whatever
-- the target epsilon) its runs over the target epsilons, and standard fine-tuning at 0 where a run of it is finished.
-- Pearson's correlation of `delay` and `validation_clean` over the rows of one `series` is the figure's number.
CREATE VIEW severity AS
WITH finished AS (
    SELECT r.id, r.backbone, r.dataset, r.epsilon_schedule, r.seed, r.target_epsilon, r.target_epsilon_value,
           r.delay, r.delay_above_chance, r.validation_clean, r.clean, r.clean_drop,
           s.recipe, s.is_standard,
           s.recipe || r.epsilon_schedule || (s.spec -> '$.attack') || coalesce(s.spec -> '$.objective', '') AS robust
    FROM results r
    JOIN specs s ON s.run = r.id
    WHERE r.state = 'succeeded'
), series AS (
    SELECT robust, recipe, backbone, dataset, epsilon_schedule, seed, min(id) AS series
    FROM finished
    WHERE NOT is_standard
    GROUP BY robust
)
SELECT g.series, g.backbone, g.dataset, g.epsilon_schedule, g.seed,
       f.id, f.target_epsilon, f.target_epsilon_value, f.delay, f.delay_above_chance, f.validation_clean, f.clean,
       f.clean_drop
FROM series g
JOIN finished f ON f.robust = g.robust AND NOT f.is_standard
UNION ALL
SELECT g.series, g.backbone, g.dataset, g.epsilon_schedule, g.seed,
       f.id, '0', 0.0, f.delay, f.delay_above_chance, f.validation_clean, f.clean, f.clean_drop
FROM series g
JOIN finished f ON f.id = (SELECT min(t.id) FROM finished t WHERE t.is_standard AND t.recipe = g.recipe);
