-- What reserved names look like. Filled in by the program, as in `rooms`.
ALTER TABLE reserved_names ADD COLUMN skeleton TEXT;
CREATE INDEX reserved_names_by_skeleton ON reserved_names (skeleton);
