-- What limits who may post in a room, and when. (usable_since stays: older programs do without; they let everybody
-- post.)
ALTER TABLE heads ADD COLUMN slow_mode_seconds INTEGER NOT NULL DEFAULT 0;  -- between two messages of a member; 0: none
ALTER TABLE heads ADD COLUMN who_may_post INTEGER NOT NULL DEFAULT 0;       -- 0 members 1 moderators 2 nobody
ALTER TABLE members ADD COLUMN silenced_until INTEGER;                      -- until then a member only reads
ALTER TABLE members ADD COLUMN last_posted_at INTEGER;                      -- written in rooms with slow mode only
