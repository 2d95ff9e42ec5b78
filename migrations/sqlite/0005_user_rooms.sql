-- The rooms of a user by name, so that a page of them costs a page, however many they are. Triggers keep it equal to
-- `members`. A deleted room has lost its name, but its row here goes with its members.

CREATE TABLE user_rooms (
  user_id       INTEGER NOT NULL,
  room_id       INTEGER NOT NULL,
  room_name     TEXT NOT NULL,
  PRIMARY KEY (user_id, room_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX user_rooms_by_name ON user_rooms (user_id, room_name);

INSERT INTO user_rooms (user_id, room_id, room_name)
  SELECT m.user_id, r.id, r.name FROM members m JOIN rooms r ON r.id = m.room_id WHERE r.name IS NOT NULL;

CREATE TRIGGER user_rooms_joined AFTER INSERT ON members BEGIN
  INSERT INTO user_rooms (user_id, room_id, room_name)
    SELECT NEW.user_id, r.id, r.name FROM rooms r WHERE r.id = NEW.room_id AND r.name IS NOT NULL;
END;
CREATE TRIGGER user_rooms_left AFTER DELETE ON members BEGIN
  DELETE FROM user_rooms WHERE user_id = OLD.user_id AND room_id = OLD.room_id;
END;
