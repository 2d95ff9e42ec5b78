-- The processes that use the database together, each with --bus. A node adds and updates its own row. (usable_since
-- stays: older programs do without this table.)
CREATE TABLE nodes (
  incarnation   text PRIMARY KEY,                                    -- random; drawn at each start, and after a silence
  name          text NOT NULL,                                       -- a label: --node
  version       text NOT NULL,                                       -- of the program
  bus_version   integer NOT NULL,                                    -- of the announcements that it understands
  started_at    bigint NOT NULL,
  beat_at       bigint NOT NULL);                                    -- moves every two seconds while the node lives
