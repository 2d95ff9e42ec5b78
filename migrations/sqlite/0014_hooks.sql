-- Incoming hooks: a program that knows the secret posts messages to the room, as the user. Without foreign keys, so
-- that no lock of a room is held between two statements. (usable_since stays: older programs do without.)
CREATE TABLE hooks (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used twice
  room_id       INTEGER NOT NULL,
  user_id       INTEGER NOT NULL,                    -- 'NAME [bot]', a user for all hooks of this name
  name          TEXT NOT NULL,
  secret_hash   TEXT NOT NULL UNIQUE,                -- SHA-256 of the secret in the URL, in hexadecimal digits
  created_by    INTEGER NOT NULL,
  created_at    INTEGER NOT NULL,
  UNIQUE (room_id, user_id)
) STRICT;
