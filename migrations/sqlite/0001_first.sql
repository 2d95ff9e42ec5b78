-- Times are Unix milliseconds. Composite keys WITHOUT ROWID: the row lives in its key, one page written instead of two.
-- The same columns as on PostgreSQL; "offset" is a reserved word there, hence room_offset.

CREATE TABLE meta (                       -- generation, incarnation
  name          TEXT PRIMARY KEY,
  value         TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta (name, value) VALUES ('generation', '1');

CREATE TABLE users (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used twice
  username      TEXT NOT NULL,                       -- as shown
  username_key  TEXT NOT NULL UNIQUE,                -- NFKC, case-folded: Alice = alice
  email_key     TEXT UNIQUE,
  password_hash TEXT,                                -- NULL: no password to sign in with
  token_generation INTEGER NOT NULL DEFAULT 0,       -- a token carries it; sign-out and password change raise it
  revoked_at    INTEGER,                             -- when it was last raised; polled with an overlap
  created_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX users_revoked ON users (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE rooms (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used twice
  name          TEXT UNIQUE,                         -- immutable, its own folded key; NULL once deleted, until all is swept
  kind          INTEGER NOT NULL,                    -- 0 public, 1 private, 2 direct (reserved)
  title         TEXT NOT NULL,
  title_key     TEXT NOT NULL,                       -- in lower case, for finding: SQLite's lower() knows only ASCII
  size          INTEGER NOT NULL,
  members       INTEGER NOT NULL DEFAULT 0 CHECK (members BETWEEN 0 AND size),
  epoch         TEXT NOT NULL,                       -- random; with meta's generation it is the epoch that clients see
  created_by    INTEGER NOT NULL,
  created_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE heads (                                 -- the one row an append moves; deleting it first closes a room
  room_id       INTEGER PRIMARY KEY,
  last_offset   INTEGER NOT NULL DEFAULT 0,          -- of publications
  last_number   INTEGER NOT NULL DEFAULT 0           -- of messages: unread = last_number - read_number
) STRICT;

CREATE TABLE members (
  room_id       INTEGER NOT NULL REFERENCES rooms ON DELETE CASCADE,
  user_id       INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  role          INTEGER NOT NULL DEFAULT 0,          -- 0 member, 1 moderator, 2 owner
  joined_at     INTEGER NOT NULL,
  read_offset   INTEGER NOT NULL,                    -- begin at the head when joining: what was before is not unread
  read_number   INTEGER NOT NULL,
  PRIMARY KEY (room_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_user ON members (user_id, room_id);

CREATE TABLE messages (                              -- the log of a room
  room_id       INTEGER NOT NULL,
  room_offset   INTEGER NOT NULL,
  number        INTEGER NOT NULL,                    -- messages up to and including this row
  kind          INTEGER NOT NULL,                    -- 0 message 1 edit 2 delete 3 react 4 unreact 5 removed 6 room changed
  user_id       INTEGER NOT NULL,
  client_id     TEXT NOT NULL,                       -- the sender's id, or one that the server made ('~...')
  target_offset INTEGER,                             -- 0: reply to; 1-4: the message meant; 5: NULL
  body          TEXT,                                -- 0: current text, NULL when deleted; 3, 4: emoji; 5: user id; 1, 2: NULL
  edit_offset   INTEGER,                             -- 0: its last edit
  gone_offset   INTEGER,                             -- 0: its deletion
  created_at    INTEGER NOT NULL,
  PRIMARY KEY (room_id, room_offset)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX messages_by_sender ON messages (room_id, user_id, client_id);
CREATE INDEX messages_shown ON messages (room_id, room_offset) WHERE kind = 0;  -- pages of messages, whatever lies between

CREATE TABLE reactions (                             -- the current state; the log has the events
  room_id       INTEGER NOT NULL,
  room_offset   INTEGER NOT NULL,
  emoji         TEXT NOT NULL,
  user_id       INTEGER NOT NULL,
  PRIMARY KEY (room_id, room_offset, emoji, user_id)
) STRICT, WITHOUT ROWID;
