-- How far readers of the log, such as webhooks, have come in each room. (usable_since stays: older programs do without
-- these tables.)

CREATE TABLE readers (
  reader        text COLLATE "C" PRIMARY KEY,
  filter        text NOT NULL,                                       -- which rooms it reads: its own form
  former_filter text,                                                -- before that, until it is prepared; NULL: new
  prepared_to   bigint NOT NULL,                                     -- rooms up to this id have positions
  prepare_until bigint NOT NULL);                                    -- later rooms are read from the start

CREATE TABLE positions (                                             -- without a row: 0
  reader        text COLLATE "C" NOT NULL,
  room_id       bigint NOT NULL,
  room_offset   bigint NOT NULL,                                     -- everything up to it is done
  batch_to      bigint NOT NULL DEFAULT 0,                           -- what follows, up to it, is under way; 0: none
  batch_epoch   text NOT NULL DEFAULT '',                            -- of the room, when the batch was begun
  batch_at      bigint NOT NULL DEFAULT 0,                           -- when that was
  PRIMARY KEY (reader, room_id)) WITH (fillfactor = 50);
