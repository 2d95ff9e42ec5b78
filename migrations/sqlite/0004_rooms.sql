-- The rooms that a user owns can be counted, and pages of public rooms skip no private ones.
CREATE INDEX rooms_by_owner ON rooms (created_by) WHERE name IS NOT NULL;
CREATE INDEX rooms_public ON rooms (name) WHERE kind = 0;

-- Rooms are found by any three characters in a row.
CREATE VIRTUAL TABLE room_search USING fts5 (name, title_key, content = 'rooms', content_rowid = 'id', tokenize = 'trigram');
INSERT INTO room_search (room_search) VALUES ('rebuild');
CREATE TRIGGER room_search_insert AFTER INSERT ON rooms BEGIN
  INSERT INTO room_search (rowid, name, title_key) VALUES (new.id, new.name, new.title_key);
END;
CREATE TRIGGER room_search_update AFTER UPDATE OF name, title_key ON rooms BEGIN
  INSERT INTO room_search (room_search, rowid, name, title_key) VALUES ('delete', old.id, old.name, old.title_key);
  INSERT INTO room_search (rowid, name, title_key) VALUES (new.id, new.name, new.title_key);
END;
CREATE TRIGGER room_search_delete AFTER DELETE ON rooms BEGIN
  INSERT INTO room_search (room_search, rowid, name, title_key) VALUES ('delete', old.id, old.name, old.title_key);
END;
