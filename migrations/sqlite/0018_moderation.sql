-- Who may do what in a room, and who has done it. Times are Unix milliseconds. (usable_since stays: there are no older
-- programs beside this one on SQLite.)
ALTER TABLE rooms ADD COLUMN topic TEXT NOT NULL DEFAULT '';
ALTER TABLE rooms ADD COLUMN who_may_invite INTEGER NOT NULL DEFAULT 1;   -- 0 members 1 moderators
-- Is there another owner?
CREATE INDEX members_owners ON members (room_id) WHERE role = 2;

CREATE TABLE bans (                                  -- who can't become a member
  room_id       INTEGER NOT NULL,
  user_id       INTEGER NOT NULL,
  until         INTEGER,                             -- NULL: for ever
  reason        TEXT,
  banned_by     INTEGER NOT NULL,
  at            INTEGER NOT NULL,
  PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE silences (                              -- a member who leaves and comes back is still silenced
  room_id       INTEGER NOT NULL,
  user_id       INTEGER NOT NULL,
  until         INTEGER NOT NULL,
  reason        TEXT,
  silenced_by   INTEGER NOT NULL,
  at            INTEGER NOT NULL,
  PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE pins (                                  -- messages that a room shows first
  room_id       INTEGER NOT NULL,
  room_offset   INTEGER NOT NULL,
  pinned_by     INTEGER NOT NULL,
  at            INTEGER NOT NULL,
  PRIMARY KEY (room_id, room_offset)
) STRICT, WITHOUT ROWID;
-- A deleted message is unpinned by its deletion.
CREATE TRIGGER unpin_deleted AFTER UPDATE OF gone_offset ON messages WHEN new.gone_offset IS NOT NULL BEGIN
  DELETE FROM pins WHERE room_id = new.room_id AND room_offset = new.room_offset;
END;

CREATE TABLE room_audit (                            -- what moderators and owners did; kept for one year
  id            INTEGER PRIMARY KEY AUTOINCREMENT,   -- in the order in which it was done
  room_id       INTEGER,
  at            INTEGER NOT NULL,
  actor_id      INTEGER NOT NULL,
  action        TEXT NOT NULL,
  target_id     INTEGER,                             -- the user whom it concerns
  detail        TEXT NOT NULL                        -- a JSON object
) STRICT;
CREATE INDEX room_audit_by_room ON room_audit (room_id, id);
