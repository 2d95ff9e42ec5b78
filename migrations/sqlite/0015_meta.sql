-- JSON that the sender of a message attached, compact; NULL once the message is deleted. (usable_since stays: older
-- programs do without, and show such messages without it.)
ALTER TABLE messages ADD COLUMN meta TEXT;
