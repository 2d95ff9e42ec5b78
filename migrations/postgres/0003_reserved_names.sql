-- Names of deleted rooms, kept for their last owners: what others still send to such a name must not reach strangers.
CREATE TABLE reserved_names (
  name          text COLLATE "C" PRIMARY KEY,
  owner_id      bigint NOT NULL,
  until         bigint NOT NULL);
CREATE INDEX reserved_names_until ON reserved_names (until);
