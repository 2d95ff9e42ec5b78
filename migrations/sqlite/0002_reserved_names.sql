-- Names of deleted rooms, kept for their last owners: what others still send to such a name must not reach strangers.
CREATE TABLE reserved_names (
  name          TEXT PRIMARY KEY,
  owner_id      INTEGER NOT NULL,
  until         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reserved_names_until ON reserved_names (until);
