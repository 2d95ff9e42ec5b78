-- Joins and departures, for pages of history. All kinds that the program itself writes are in it, so that later ones
-- need no other index. Messages, which clients write, cost nothing.
CREATE INDEX messages_memberships ON messages (room_id, room_offset) WHERE kind >= 5;
