-- Incoming hooks: a program that knows the secret posts messages to the room, as the user. Without foreign keys, so
-- that no lock of a room is held between two statements. (usable_since stays: older programs do without.)
CREATE TABLE hooks (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  room_id       bigint NOT NULL,
  user_id       bigint NOT NULL,                     -- 'NAME [bot]', a user for all hooks of this name
  name          text NOT NULL,
  secret_hash   text COLLATE "C" NOT NULL UNIQUE,    -- SHA-256 of the secret in the URL, in hexadecimal digits
  created_by    bigint NOT NULL,
  created_at    bigint NOT NULL,
  UNIQUE (room_id, user_id));
