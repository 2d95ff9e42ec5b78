-- Direct rooms (kind 2): the same people always find the same room. (usable_since stays: older programs take them for
-- private rooms.)
ALTER TABLE rooms ADD COLUMN direct_key TEXT;        -- the ids of a direct room's members, ascending, with '-' between
CREATE UNIQUE INDEX rooms_direct ON rooms (direct_key) WHERE direct_key IS NOT NULL AND name IS NOT NULL;

CREATE TABLE blocks (                                -- whom users have blocked
  user_id       INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  blocked_id    INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  at            INTEGER NOT NULL,
  PRIMARY KEY (user_id, blocked_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX blocks_by_blocked ON blocks (blocked_id);
