-- Times are Unix milliseconds from the database's clock. "offset" is a reserved word, hence room_offset.

CREATE TABLE meta (                       -- generation, system_identifier, timeline
  name          text PRIMARY KEY,
  value         text NOT NULL);
INSERT INTO meta (name, value) VALUES ('generation', '1');

CREATE TABLE users (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  username      text NOT NULL,                                       -- as shown
  username_key  text COLLATE "C" NOT NULL UNIQUE,                    -- NFKC, case-folded: Alice = alice
  email_key     text COLLATE "C" UNIQUE,
  password_hash text,                                                -- NULL: no password to sign in with
  token_generation integer NOT NULL DEFAULT 0,                       -- a token carries it; sign-out and password change raise it
  revoked_at    bigint,                                              -- when it was last raised; polled with an overlap
  created_at    bigint NOT NULL);
CREATE INDEX users_revoked ON users (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE rooms (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name          text COLLATE "C" UNIQUE,                             -- immutable, its own folded key; NULL once deleted, until all is swept
  kind          smallint NOT NULL,                                   -- 0 public, 1 private, 2 direct (reserved)
  title         text NOT NULL,
  title_key     text COLLATE "C" NOT NULL,                           -- in lower case, for finding: the same on both databases
  size          integer NOT NULL,
  members       integer NOT NULL DEFAULT 0 CHECK (members BETWEEN 0 AND size),
  epoch         text NOT NULL,                                       -- random; with meta's generation it is the epoch that clients see
  created_by    bigint NOT NULL,
  created_at    bigint NOT NULL);

CREATE TABLE heads (                                                 -- the one row an append locks; narrow, so HOT updates stay in page
  room_id       bigint PRIMARY KEY,                                  -- deleting it first is how a room is closed
  last_offset   bigint NOT NULL DEFAULT 0,                           -- of publications
  last_number   bigint NOT NULL DEFAULT 0)                           -- of messages: unread = last_number - read_number
  WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE members (
  room_id       bigint NOT NULL REFERENCES rooms ON DELETE CASCADE,
  user_id       bigint NOT NULL REFERENCES users ON DELETE CASCADE,
  role          smallint NOT NULL DEFAULT 0,                         -- 0 member, 1 moderator, 2 owner
  joined_at     bigint NOT NULL,
  read_offset   bigint NOT NULL,                                     -- begin at the head when joining: what was before is not unread
  read_number   bigint NOT NULL,
  PRIMARY KEY (room_id, user_id));
CREATE INDEX members_by_user ON members (user_id, room_id);

CREATE TABLE messages (                                              -- the log of a room; no foreign key: the heads lock and the members probe stand in
  room_id       bigint NOT NULL,
  room_offset   bigint NOT NULL,
  number        bigint NOT NULL,                                     -- messages up to and including this row
  kind          smallint NOT NULL,                                   -- 0 message 1 edit 2 delete 3 react 4 unreact 5 removed 6 room changed
  user_id       bigint NOT NULL,
  client_id     text COLLATE "C" NOT NULL,                           -- the sender's id, or one that the server made ('~...')
  target_offset bigint,                                              -- 0: reply to; 1-4: the message meant; 5: NULL
  body          text,                                                -- 0: current text, NULL when deleted; 3, 4: emoji; 5: user id; 1, 2: NULL
  edit_offset   bigint,                                              -- 0: its last edit
  gone_offset   bigint,                                              -- 0: its deletion
  created_at    bigint NOT NULL,
  PRIMARY KEY (room_id, room_offset),
  CONSTRAINT messages_by_sender UNIQUE (room_id, user_id, client_id));
CREATE INDEX messages_shown ON messages (room_id, room_offset) WHERE kind = 0;  -- pages of messages, whatever lies between

CREATE TABLE reactions (                                             -- the current state; the log has the events
  room_id       bigint NOT NULL,
  room_offset   bigint NOT NULL,
  emoji         text COLLATE "C" NOT NULL,
  user_id       bigint NOT NULL,
  PRIMARY KEY (room_id, room_offset, emoji, user_id));
