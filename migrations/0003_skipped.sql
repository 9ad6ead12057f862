-- Pictures of the source that could not be read and were left out (`on_bad_image: skip`); they count in no split.
ALTER TABLE provenance ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;
