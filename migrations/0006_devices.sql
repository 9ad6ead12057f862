-- What GPUs were asked for. Conventions as in the first migration. Only columns are added, so `min_reader` stays.

-- Most memory in use at any look of the worker, in bytes, other programs on the GPU included; NULL on the CPU and where the
-- driver does not say.
ALTER TABLE attempts ADD COLUMN device_memory_bytes INTEGER CHECK (device_memory_bytes >= 0);
-- The memory that the GPU has, in bytes.
ALTER TABLE attempts ADD COLUMN device_memory_total_bytes INTEGER CHECK (device_memory_total_bytes >= 0);
-- Share of the time in which the GPU computed anything, in [0, 1]: the mean over all looks.
ALTER TABLE attempts ADD COLUMN device_utilization REAL CHECK (device_utilization BETWEEN 0 AND 1);
