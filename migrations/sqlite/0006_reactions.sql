-- The kinds of reactions to a message: how many users have given each, and since which offset there has been one. They
-- are bounded, listed in this order, and counted without reading all reactions.
CREATE TABLE reaction_kinds (
  room_id       INTEGER NOT NULL,
  room_offset   INTEGER NOT NULL,
  emoji         TEXT NOT NULL,
  since         INTEGER NOT NULL,
  users         INTEGER NOT NULL,
  PRIMARY KEY (room_id, room_offset, emoji)
) STRICT, WITHOUT ROWID;
INSERT INTO reaction_kinds (room_id, room_offset, emoji, since, users)
  SELECT room_id, room_offset, emoji, 0, count(*) FROM reactions GROUP BY room_id, room_offset, emoji;
