-- Invites: those who know the code of one may join its room, or sign up. (usable_since stays: older programs do
-- without.)
CREATE TABLE invites (
  code          TEXT PRIMARY KEY,
  room_id       INTEGER NOT NULL,                    -- 0: it only lets people sign up
  created_by    INTEGER NOT NULL,                    -- 0: the operator
  created_at    INTEGER NOT NULL,
  expires_at    INTEGER NOT NULL,
  uses          INTEGER NOT NULL DEFAULT 0,
  uses_limit    INTEGER,                             -- NULL: none
  revoked_at    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX invites_by_room ON invites (room_id);
