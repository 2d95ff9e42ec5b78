-- Keys of the server API, and the log of what is done with them. (usable_since stays: older programs know neither.)

CREATE TABLE api_keys (
  name          TEXT PRIMARY KEY,
  key_hash      TEXT NOT NULL UNIQUE,                -- SHA-256 in hexadecimal; the key itself is stored nowhere
  user_id       INTEGER NOT NULL,                    -- the bot user, whose messages the key publishes
  scopes        TEXT NOT NULL,                       -- words separated by commas
  users         TEXT NOT NULL,                       -- how the key names users: 'id', 'subject' or 'username'
  created_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (                                 -- the newest rows are kept
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  at            INTEGER NOT NULL,                    -- the last time, if it was done several times
  actor         TEXT NOT NULL,                       -- 'key NAME' or 'operator'
  action        TEXT NOT NULL,                       -- the method
  target        TEXT NOT NULL,                       -- the channel or user
  outcome       INTEGER NOT NULL,                    -- the error code; 0: it was done
  times         INTEGER NOT NULL                     -- equal actions that follow closely share a row
) STRICT;

CREATE TABLE former_names (                          -- of users who were renamed; they still lead to these users
  name_key      TEXT PRIMARY KEY,
  username      TEXT NOT NULL,
  skeleton      TEXT NOT NULL,
  user_id       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX former_names_skeleton ON former_names (skeleton);
CREATE INDEX former_names_user ON former_names (user_id);
