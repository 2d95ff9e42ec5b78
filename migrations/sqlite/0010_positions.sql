-- How far readers of the log, such as webhooks, have come in each room. (usable_since stays: older programs do without
-- these tables.)

CREATE TABLE readers (
  reader        TEXT PRIMARY KEY,
  filter        TEXT NOT NULL,                       -- which rooms it reads: its own form
  former_filter TEXT,                                -- before that, until it is prepared; NULL: it is new
  prepared_to   INTEGER NOT NULL,                    -- rooms up to this id have a position, if they need one
  prepare_until INTEGER NOT NULL                     -- those after it were created later: they are read from the start
) STRICT, WITHOUT ROWID;

CREATE TABLE positions (                             -- without a row: 0
  reader        TEXT NOT NULL,
  room_id       INTEGER NOT NULL,
  room_offset   INTEGER NOT NULL,                    -- everything up to it is done
  batch_to      INTEGER NOT NULL DEFAULT 0,          -- what follows, up to it, is under way; 0: nothing is
  batch_epoch   TEXT NOT NULL DEFAULT '',            -- of the room, when the batch was begun
  batch_at      INTEGER NOT NULL DEFAULT 0,          -- when that was
  PRIMARY KEY (reader, room_id)
) STRICT, WITHOUT ROWID;
