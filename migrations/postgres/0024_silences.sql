-- What limits who may post in a room, and when. It is in rows that each append reads anyway. (usable_since stays: older
-- programs do without.)
ALTER TABLE heads ADD COLUMN slow_mode_seconds integer NOT NULL DEFAULT 0;  -- between two messages of a member; 0: none
ALTER TABLE heads ADD COLUMN who_may_post smallint NOT NULL DEFAULT 0;      -- 0 members 1 moderators 2 nobody
ALTER TABLE members ADD COLUMN silenced_until bigint;                       -- until then a member only reads
ALTER TABLE members ADD COLUMN last_posted_at bigint;                       -- written in rooms with slow mode only
